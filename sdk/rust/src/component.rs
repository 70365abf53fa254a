//! Puts an actor behind the contract's exports, by the canonical ABI of `wit/application.wit`.
//!
//! Called only by what [`export!`](crate::export) writes into the application's crate: an export
//! in a library could be left out by the linker.

use std::alloc::{Layout, alloc, handle_alloc_error, realloc};
use std::cell::RefCell;
use std::panic::{self, PanicHookInfo};

use log::LevelFilter;

use crate::actor::{begin, with_sender};
use crate::contract::{HostLog, taken, text};
use crate::{Actor, Failure, Handlers, Result};

type List = (*mut u8, usize);

/// The one actor of this instance.
trait Stage {
    fn receive(&mut self, message_type: &str, payload: Vec<u8>) -> Result<Vec<u8>>;
    fn snapshot(&self) -> Result<Vec<u8>>;
    fn shutdown(&mut self);
}

struct Running<A> {
    actor: A,
    handlers: Handlers<A>,
}

impl<A: Actor> Stage for Running<A> {
    fn receive(&mut self, message_type: &str, payload: Vec<u8>) -> Result<Vec<u8>> {
        self.handlers
            .receive(&mut self.actor, message_type, payload)
    }

    fn snapshot(&self) -> Result<Vec<u8>> {
        self.actor.snapshot()
    }

    fn shutdown(&mut self) {
        self.actor.shutdown();
    }
}

/// A result that the host reads: words, and the bytes they point to.
#[derive(Default)]
struct Answer {
    words: [u32; 6],
    kept: [Vec<u8>; 2],
}

impl Answer {
    fn with(mut self, word: usize, slot: usize, bytes: Vec<u8>) -> Self {
        self.words[word] = bytes.as_ptr() as u32;
        self.words[word + 1] = bytes.len() as u32;
        self.kept[slot] = bytes;
        self
    }

    fn error(mut self) -> Self {
        self.words[0] = 1;
        self
    }
}

thread_local! {
    static STAGE: RefCell<Option<Box<dyn Stage>>> = const { RefCell::new(None) };
    static SAVED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static ANSWER: RefCell<Answer> = RefCell::default();
}

unsafe extern "C" {
    /// Made by the linker: runs the constructors of C code that is linked in.
    fn __wasm_call_ctors();
}

/// `init` of the contract.
///
/// # Safety
///
/// As for [`handle_message`]; called once.
pub unsafe fn init<A: Actor>(state: *mut u8, size: usize) -> *const u32 {
    // Where nobody calls them, the linker would run them around every export, again and again.
    unsafe { __wasm_call_ctors() };
    panic::set_hook(Box::new(say));
    if log::set_logger(&HostLog).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
    let state = unsafe { taken(state, size) };
    answer(match begin::<A>(&state) {
        Ok(actor) => {
            let stage = Running {
                actor,
                handlers: A::handlers(),
            };
            STAGE.set(Some(Box::new(stage)));
            SAVED.set(state);
            Answer::default()
        }
        Err(failure) => {
            explain(&failure, "the actor did not start");
            Answer::default()
                .error()
                .with(1, 0, failure.to_string().into_bytes())
        }
    })
}

/// `handle-message` of the contract.
///
/// # Safety
///
/// Called by the host only, with lists it wrote into memory from [`reallocate`].
pub unsafe fn handle_message(sender: List, message_type: List, payload: List) -> *const u32 {
    let [sender, message_type, payload] =
        [sender, message_type, payload].map(|(at, size)| unsafe { taken(at, size) });
    let (sender, message_type) = (text(sender), text(message_type));
    let reply = STAGE.with_borrow_mut(|stage| match stage {
        Some(stage) => with_sender(sender, || stage.receive(&message_type, payload)),
        None => Err(Failure::new("wrong-state", "the actor was not initialised")),
    });
    answer(match reply {
        Ok(reply) => Answer::default().with(1, 0, reply),
        Err(failure) => {
            explain(&failure, &format!("{message_type:?} was not handled"));
            let mut answer = Answer::default()
                .error()
                .with(1, 0, failure.code.into_bytes())
                .with(3, 1, failure.message.into_bytes());
            answer.words[5] = failure.retryable.into();
            answer
        }
    })
}

/// `snapshot-state` of the contract.
///
/// It has no error there: when the actor fails, its last good state is returned and the log says
/// so, which costs less than the instance.
pub fn snapshot_state() -> *const u32 {
    let state = STAGE.with_borrow(|stage| stage.as_ref().map(|stage| stage.snapshot()));
    match state {
        Some(Ok(state)) => SAVED.set(state),
        Some(Err(failure)) => log::error!(
            "the state could not be saved; the one before it is kept: {}",
            failure.trace().unwrap_or(&failure.to_string())
        ),
        None => (),
    }
    answer(Answer::default().with(0, 0, SAVED.with_borrow(Vec::clone)))
}

/// `shutdown` of the contract.
pub fn shutdown() {
    STAGE.with_borrow_mut(|stage| {
        if let Some(stage) = stage {
            stage.shutdown();
        }
    });
}

/// Free what the last call returned; the host has read it.
pub fn release() {
    ANSWER.take();
}

/// `cabi_realloc`: memory that the host writes lists into, of which a `Vec` may be made.
///
/// # Safety
///
/// As for `realloc` of the standard library.
pub unsafe fn reallocate(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    if size == 0 {
        return align as *mut u8;
    }
    unsafe {
        let layout = Layout::from_size_align_unchecked(size, align);
        let at = match old_size {
            0 => alloc(layout),
            _ => realloc(
                old,
                Layout::from_size_align_unchecked(old_size, align),
                size,
            ),
        };
        if at.is_null() {
            handle_alloc_error(layout);
        }
        at
    }
}

fn answer(answer: Answer) -> *const u32 {
    ANSWER.set(answer);
    // Sound: it stays where it is until the next call, in a program of one thread.
    ANSWER.with(|answer| unsafe { (*answer.as_ptr()).words.as_ptr() })
}

fn explain(failure: &Failure, what: &str) {
    if let Some(trace) = failure.trace() {
        log::error!("{what}: {trace}");
    }
}

/// In one line, because the node shows the last line to whoever sent the message.
fn say(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = (payload.downcast_ref::<&str>().copied())
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let message = message
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("; ");
    match info.location() {
        Some(place) => eprintln!("panicked at {place}: {message}"),
        None => eprintln!("panicked: {message}"),
    }
}
