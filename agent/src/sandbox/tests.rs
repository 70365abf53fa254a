//! What an intruder could do, tried from inside: each attempt in a process of its own, which this
//! program starts as itself with the one test `attempt`.
#![allow(clippy::cast_sign_loss, clippy::expect_used)]

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::kernel::{call, leave};
use super::{Hold, hold, lock_down};

const ATTEMPT: &str = "PLEXSPACES_TEST_ATTEMPT";
const DIRECTORY: &str = "PLEXSPACES_TEST_DIRECTORY";
const ELSEWHERE: &str = "PLEXSPACES_TEST_ELSEWHERE";
/// No error of the kernel's: what is to be tried is not on this machine.
const NOT_HERE: i32 = 200;
const DONE: i32 = 0;

/// A user of the range that machines have theirs from.
const SOMEBODY: u32 = 0x7000_0001;

type Attempt = (&'static str, fn() -> io::Result<()>);

fn unit(result: io::Result<i64>) -> io::Result<()> {
    result.map(|_| ())
}

fn plain(number: libc::c_long, first: usize, second: usize, third: usize) -> io::Result<()> {
    unit(call(number, [first, second, third, 0, 0, 0]))
}

fn own_file() -> PathBuf {
    PathBuf::from(std::env::var_os(DIRECTORY).unwrap_or_default()).join("own")
}

fn node() -> usize {
    std::os::unix::process::parent_id() as usize
}

fn executable_memory(number: libc::c_long) -> io::Result<()> {
    let (write, execute) = (libc::PROT_WRITE as usize, libc::PROT_EXEC as usize);
    let map = |protection| {
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        call(libc::SYS_mmap, [0, 4096, protection, flags, usize::MAX, 0])
    };
    if number == libc::SYS_mmap {
        return unit(map(write | execute));
    }
    let page = map(write)?;
    plain(number, page as usize, 4096, execute)
}

fn mapped(kind: libc::c_int) -> io::Result<()> {
    let write = libc::PROT_WRITE as usize;
    let flags = (kind | libc::MAP_ANONYMOUS) as usize;
    unit(call(libc::SYS_mmap, [0, 4096, write, flags, usize::MAX, 0]))
}

/// Ends the process.
const FATAL: &[Attempt] = &[
    ("execute a program", || {
        Err(std::os::unix::process::CommandExt::exec(&mut Command::new(
            "/bin/true",
        )))
    }),
    ("execute an open file", || {
        let empty = c"";
        let flags = libc::AT_EMPTY_PATH as usize;
        unit(call(
            libc::SYS_execveat,
            [0, empty.as_ptr() as usize, 0, 0, flags, 0],
        ))
    }),
    ("trace the node", || {
        plain(libc::SYS_ptrace, libc::PTRACE_ATTACH as usize, node(), 0)
    }),
    ("read the node's memory", || {
        plain(libc::SYS_process_vm_readv, node(), 0, 0)
    }),
    ("kill the node", || plain(libc::SYS_kill, node(), 0, 0)),
    ("kill a thread of the node", || {
        plain(libc::SYS_tgkill, node(), node(), 0)
    }),
    ("kill all there are", || {
        plain(libc::SYS_kill, usize::MAX, 0, 0)
    }),
    ("map memory to execute", || {
        executable_memory(libc::SYS_mmap)
    }),
    ("make memory executable", || {
        executable_memory(libc::SYS_mprotect)
    }),
    ("make memory executable by a key", || {
        executable_memory(libc::SYS_pkey_mprotect)
    }),
    ("become root", || plain(libc::SYS_setuid, 0, 0, 0)),
    ("make namespaces", || {
        plain(libc::SYS_unshare, libc::CLONE_NEWUSER as usize, 0, 0)
    }),
    ("mount", || plain(libc::SYS_mount, 0, 0, 0)),
    ("load into the kernel", || plain(libc::SYS_bpf, 0, 0, 0)),
    ("call by a ring", || {
        plain(libc::SYS_io_uring_setup, 1, 0, 0)
    }),
    ("watch the machine", || {
        plain(libc::SYS_perf_event_open, 0, 0, 0)
    }),
];

/// Fails with EPERM, and the process goes on.
const REFUSED: &[Attempt] = &[
    ("read a file of the host", || {
        fs::read("/etc/hostname").map(|_| ())
    }),
    ("read the machine's own file", || {
        fs::read(own_file()).map(|_| ())
    }),
    ("write a file", || fs::write("/tmp/written", "x")),
    ("write the machine's own file", || {
        fs::write(own_file(), "x")
    }),
    ("list a directory", || fs::read_dir("/").map(|_| ())),
    ("look whether a file exists", || {
        fs::metadata("/etc/hostname").map(|_| ())
    }),
    ("remove a file", || fs::remove_file(own_file())),
    ("make a file in memory", || {
        plain(libc::SYS_memfd_create, c"x".as_ptr() as usize, 0, 0)
    }),
    ("map memory that is shared", || mapped(libc::MAP_SHARED)),
    ("map memory that is shared, by the newer name", || {
        mapped(libc::MAP_SHARED_VALIDATE)
    }),
    ("map memory that grows by itself", || {
        mapped(libc::MAP_PRIVATE | libc::MAP_GROWSDOWN)
    }),
    ("open a TCP socket", || {
        TcpStream::connect("127.0.0.1:1").map(|_| ())
    }),
    ("listen", || TcpListener::bind("127.0.0.1:0").map(|_| ())),
    ("open a unix socket", || {
        UnixStream::connect("/nowhere").map(|_| ())
    }),
    ("open a pair of sockets", || UnixStream::pair().map(|_| ())),
    ("pass descriptors", || plain(libc::SYS_sendmsg, 1, 0, 0)),
    ("start a process", || {
        plain(libc::SYS_clone, libc::SIGCHLD as usize, 0, 0)
    }),
    ("raise a limit", || {
        let limit = libc::rlimit {
            rlim_cur: 9,
            rlim_max: 9,
        };
        let address = (&raw const limit) as usize;
        plain(
            libc::SYS_prlimit64,
            0,
            libc::RLIMIT_NOFILE as usize,
            address,
        )
    }),
    ("control a device", || plain(libc::SYS_ioctl, 0, 0, 0)),
    #[cfg(target_arch = "x86_64")]
    ("call by the other numbers of x86-64", || {
        plain(libc::SYS_open | 0x4000_0000, c"/".as_ptr() as usize, 0, 0)
    }),
    #[cfg(target_arch = "x86_64")]
    ("open by the old name", || {
        plain(libc::SYS_open, c"/etc/hostname".as_ptr() as usize, 0, 0)
    }),
];

/// What the agent goes on doing.
const ALLOWED: &[Attempt] = &[
    ("take and give back memory", || {
        let taken = vec![1_u8; 64 * 1024 * 1024];
        drop(taken);
        Ok(())
    }),
    ("start a thread", || {
        let name = thread::Builder::new().name("later".to_owned());
        let answer = name
            .spawn(|| 42)?
            .join()
            .map_err(|_| io::ErrorKind::Other)?;
        assert_eq!(answer, 42);
        Ok(())
    }),
    ("wait on a runtime of several threads", || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let waiting = runtime.spawn(async { tokio::time::sleep(Duration::from_millis(1)).await });
        runtime.block_on(waiting).map_err(io::Error::other)
    }),
    ("write to the console", || {
        eprintln!("still here");
        Ok(())
    }),
];

/// Without the filter of system calls: what Landlock alone keeps.
const BEYOND_LANDLOCK: &[Attempt] = &[
    ("read a file of the host", || {
        fs::read("/etc/hostname").map(|_| ())
    }),
    ("write a file of the host", || {
        fs::write(std::env::var_os(ELSEWHERE).unwrap_or_default(), "x")
    }),
    ("write the machine's own file", || {
        fs::write(own_file(), "x")
    }),
    ("make a file among the machine's", || {
        fs::write(own_file().with_extension("new"), "x")
    }),
    ("remove the machine's own file", || {
        fs::remove_file(own_file())
    }),
    ("execute a program", || {
        Err(std::os::unix::process::CommandExt::exec(&mut Command::new(
            "/bin/true",
        )))
    }),
    ("connect by TCP", || {
        TcpStream::connect("127.0.0.1:1").map(|_| ())
    }),
    ("listen for TCP", || {
        TcpListener::bind("127.0.0.1:0").map(|_| ())
    }),
    ("signal the node", || plain(libc::SYS_kill, node(), 0, 0)),
    ("connect to an abstract socket of the node", || {
        let name = std::env::var(ELSEWHERE).unwrap_or_default();
        let address = SocketAddr::from_abstract_name(name)?;
        UnixStream::connect_addr(&address).map(|_| ())
    }),
];

#[test]
#[ignore = "is run by the others, in a process of its own"]
fn attempt() {
    let Ok(named) = std::env::var(ATTEMPT) else {
        return;
    };
    let (way, name) = named.split_once(": ").expect("a way and a name");
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("a directory"));
    let result = match way {
        "filtered" => behind_the_filter(name),
        "other thread" => on_a_thread_that_was_there(name),
        "held" => {
            if !hold(&Hold::default(), &directory).expect("held").is_empty() {
                leave(NOT_HERE);
            }
            find(BEYOND_LANDLOCK, name)()
        }
        "as somebody" => as_somebody(&directory),
        "orphan" => orphan(&directory),
        _ => panic!("no such way"),
    };
    leave(match result {
        Ok(()) => DONE,
        Err(error) => error.raw_os_error().unwrap_or(NOT_HERE + 1),
    });
}

fn behind_the_filter(name: &str) -> io::Result<()> {
    if !lock_down().expect("locked").is_empty() {
        leave(NOT_HERE);
    }
    find(&[FATAL, REFUSED, ALLOWED].concat(), name)()
}

fn on_a_thread_that_was_there(name: &str) -> io::Result<()> {
    let attempt = find(&[FATAL, REFUSED].concat(), name);
    let (filter, filtered) = channel();
    let waiting = thread::spawn(move || {
        filtered.recv().expect("the filter is there");
        attempt()
    });
    if !lock_down().expect("locked").is_empty() {
        leave(NOT_HERE);
    }
    filter.send(()).expect("a thread");
    waiting.join().expect("an end of the thread")
}

fn as_somebody(directory: &Path) -> io::Result<()> {
    let wanted = Hold {
        node_pid: Some(std::os::unix::process::parent_id()),
        memory_mib: Some(64),
        uid: Some(SOMEBODY),
    };
    let status = fs::File::open("/proc/thread-self/status")?;
    hold(&wanted, directory).map_err(|error| match error {
        super::HoldError::Refused { error, .. } => error,
        other => io::Error::other(other),
    })?;
    let told = io::read_to_string(status)?;
    let value = |name: &str| -> String {
        let line = told.lines().find_map(|line| line.strip_prefix(name));
        let words = line.unwrap_or_default().split_whitespace();
        words.collect::<Vec<_>>().join(" ")
    };
    let same = [SOMEBODY.to_string().as_str(); 4].join(" ");
    assert_eq!(value("Uid:"), same);
    assert_eq!(value("Gid:"), same);
    assert_eq!(value("Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(value(set), "0".repeat(16), "{set}");
    }
    assert_eq!(value("NoNewPrivs:"), "1");
    let mut signal = 0_i32;
    let address = (&raw mut signal) as usize;
    plain(libc::SYS_prctl, libc::PR_GET_PDEATHSIG as usize, address, 0)?;
    assert_eq!(
        signal,
        libc::SIGKILL,
        "the user changed, and the signal stays"
    );
    Ok(())
}

fn orphan(directory: &Path) -> io::Result<()> {
    let wanted = Hold {
        node_pid: Some(std::process::id()),
        ..Hold::default()
    };
    match hold(&wanted, directory) {
        Err(super::HoldError::NodeEnded(_)) => Ok(()),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

fn find(attempts: &[Attempt], name: &str) -> fn() -> io::Result<()> {
    let found = attempts.iter().find(|(one, _)| *one == name);
    found.expect("an attempt of this name").1
}

fn tried(way: &str, name: &str) -> ExitStatus {
    let directory = Scratch::new();
    let elsewhere = format!("{}-elsewhere", directory.0.display());
    let _abstract = SocketAddr::from_abstract_name(&elsewhere)
        .and_then(|address| UnixListener::bind_addr(&address))
        .expect("a socket");
    fs::write(directory.0.join("own"), "own").expect("a file");
    Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "sandbox::tests::attempt",
            "--ignored",
            "--nocapture",
        ])
        .env(ATTEMPT, format!("{way}: {name}"))
        .env(DIRECTORY, &directory.0)
        .env(ELSEWHERE, elsewhere)
        .output()
        .expect("this program runs")
        .status
}

/// A directory that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("plexspaces-walls-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether what a test is about is on this machine, which is looked for in another way than the
/// agent does; tells when not.
fn here(status: ExitStatus) -> bool {
    if status.code() != Some(NOT_HERE) {
        return true;
    }
    let told = fs::read_to_string("/proc/self/status").expect("a status");
    let version = 1; // LANDLOCK_CREATE_RULESET_VERSION
    let landlock = call(444, [0, 0, version, 0, 0, 0]).unwrap_or(0);
    let all_there = told.contains("\nSeccomp:") && landlock >= 6;
    assert!(!all_there, "the walls are here, and were not raised");
    eprintln!("this kernel lacks the wall: nothing was tried");
    false
}

#[test]
fn what_no_agent_asks_for_ends_the_process() {
    for (name, _) in FATAL {
        let status = tried("filtered", name);
        if here(status) {
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{name}: {status}");
        }
    }
}

#[test]
fn what_a_library_may_ask_for_is_refused_and_the_process_goes_on() {
    for (name, _) in REFUSED {
        let status = tried("filtered", name);
        if here(status) {
            assert_eq!(status.code(), Some(libc::EPERM), "{name}: {status}");
        }
    }
}

#[test]
fn what_the_agent_does_goes_on_behind_the_filter() {
    for (name, _) in ALLOWED {
        let status = tried("filtered", name);
        if here(status) {
            assert_eq!(status.code(), Some(DONE), "{name}: {status}");
        }
    }
}

#[test]
fn threads_that_were_there_before_are_filtered_too() {
    let status = tried("other thread", "execute a program");
    if here(status) {
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
    }
    let status = tried("other thread", "open a TCP socket");
    if here(status) {
        assert_eq!(status.code(), Some(libc::EPERM), "{status}");
    }
}

#[test]
fn landlock_alone_leaves_reading_the_machines_own_files() {
    for (name, _) in BEYOND_LANDLOCK {
        let status = tried("held", name);
        if here(status) {
            let refused = [Some(libc::EACCES), Some(libc::EPERM)];
            assert!(refused.contains(&status.code()), "{name}: {status}");
        }
    }
}

#[test]
fn user_of_its_own_has_nothing_and_dies_with_the_node() {
    let status = tried("as somebody", "");
    if status.code() == Some(libc::EPERM) {
        eprintln!("not root: nothing was tried");
        return;
    }
    assert_eq!(status.code(), Some(DONE), "{status}");
}

#[test]
fn process_whose_node_has_ended_does_not_begin() {
    let status = tried("orphan", "");
    assert_eq!(status.code(), Some(DONE), "{status}");
}
