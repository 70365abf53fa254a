//! Time: how long a call into a guest may take, and how long it took.
//!
//! A guest that computes yields its thread every few milliseconds, because a thread raises the
//! engine's epoch while any guest computes. So a deadline works like any other timeout, whether the
//! guest computes, sleeps or waits for the node, and the link is read meanwhile.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use wasmtime::Engine;

/// How long a guest computes before it yields.
const TICK: Duration = Duration::from_millis(5);

/// After this many ticks in which no guest computed, the ticker sleeps until one does.
const IDLE_TICKS: u32 = 4;

/// The ticker calls nothing that needs a deep stack.
const STACK_BYTES: usize = 64 * 1024;

/// How the time of a call was spent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// In the guest's own code.
    pub(crate) compute: Duration,
    /// Waiting: in host calls, or asleep.
    pub(crate) wait: Duration,
}

/// Raises the epoch of an engine while guests compute. Clones share one ticker.
#[derive(Debug, Clone)]
pub(crate) struct Ticker {
    state: Arc<State>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct State {
    computing: AtomicUsize,
    asleep: AtomicBool,
}

impl Ticker {
    /// Start the thread.
    pub(crate) fn start(engine: Engine) -> io::Result<Self> {
        let state = Arc::new(State::default());
        let theirs = Arc::clone(&state);
        let thread = thread::Builder::new()
            .name("ticker".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || tick(&engine, &theirs))?;
        Ok(Self {
            state,
            thread: thread.thread().clone(),
        })
    }

    /// Run a call into a guest until it ends or the deadline passes. In the latter case the call is
    /// dropped and `None` returned.
    pub(crate) async fn run<T>(
        &self,
        deadline: Instant,
        call: impl Future<Output = T>,
    ) -> (Option<T>, Spent) {
        let mut stopwatch = Stopwatch::start(self);
        let mut call = pin!(call);
        let timed = poll_fn(|context| stopwatch.poll(call.as_mut(), context));
        let result = timeout_at(deadline, timed).await.ok();
        (result, stopwatch.spent())
    }

    fn computing(&self) -> Computing<'_> {
        self.state.computing.fetch_add(1, Ordering::SeqCst);
        if self.state.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Computing(&self.state)
    }
}

/// Measures how the time of one call is spent.
pub(crate) struct Stopwatch {
    ticker: Ticker,
    begin: Instant,
    compute: Duration,
}

impl Stopwatch {
    /// Begin now.
    pub(crate) fn start(ticker: &Ticker) -> Self {
        Self {
            ticker: ticker.clone(),
            begin: Instant::now(),
            compute: Duration::ZERO,
        }
    }

    /// Resume the call; the time until it yields is compute.
    pub(crate) fn poll<F: Future>(
        &mut self,
        call: Pin<&mut F>,
        context: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let resumed = std::time::Instant::now();
        let state = {
            let _computing = self.ticker.computing();
            call.poll(context)
        };
        self.compute += resumed.elapsed();
        state
    }

    /// How it was spent so far.
    pub(crate) fn spent(&self) -> Spent {
        let compute = self.compute;
        let wait = self.begin.elapsed().saturating_sub(compute);
        Spent { compute, wait }
    }
}

struct Computing<'a>(&'a State);

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        self.0.computing.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(engine: &Engine, state: &State) {
    let mut idle = 0;
    loop {
        if idle > IDLE_TICKS {
            state.asleep.store(true, Ordering::SeqCst);
            while state.computing.load(Ordering::SeqCst) == 0 {
                thread::park();
            }
            state.asleep.store(false, Ordering::SeqCst);
            idle = 0;
        }
        thread::sleep(TICK);
        if state.computing.load(Ordering::SeqCst) == 0 {
            idle += 1;
        } else {
            idle = 0;
            engine.increment_epoch();
        }
    }
}
