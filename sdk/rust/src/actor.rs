//! The actor: what a user implements. Knows nothing of WebAssembly.

use std::cell::RefCell;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Failure, Handlers, Result};

/// An instance of an application; it handles one message at a time.
pub trait Actor: State {
    /// The handlers of the messages; called once per instance.
    fn handlers() -> Handlers<Self>;

    /// Act once per instance, after its state was restored.
    ///
    /// An error makes the deploy fail with that message.
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    /// Act when the instance is stopped cleanly; this is its last call.
    fn shutdown(&mut self) {}
}

/// How an actor is created, saved and restored.
///
/// Every type with `Default`, `Serialize` and `DeserializeOwned` implements it: the state is then
/// its JSON. Write `#[serde(default)]` on the struct, so that a later version of the application,
/// with more fields, can restore what an earlier one saved; `#[serde(skip)]` on a field that is not
/// saved. To save in another form, do not derive `Serialize` and implement this trait.
pub trait State: Sized + 'static {
    /// The state of the first instance.
    fn initial() -> Self;

    /// Restore what `snapshot` returned, perhaps in an earlier version of the application.
    fn restore(state: &[u8]) -> Result<Self>;

    /// The state in the form in which it is saved.
    fn snapshot(&self) -> Result<Vec<u8>>;
}

impl<T: Default + Serialize + DeserializeOwned + 'static> State for T {
    fn initial() -> Self {
        Self::default()
    }

    fn restore(state: &[u8]) -> Result<Self> {
        serde_json::from_slice(state).map_err(|error| {
            Failure::new(
                "bad-state",
                format!("the saved state does not fit: {error}"),
            )
        })
    }

    fn snapshot(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }
}

thread_local! {
    static SENDER: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Name of the application that sent the current message; empty for a client.
pub fn sender() -> String {
    SENDER.with_borrow(String::clone)
}

pub(crate) fn with_sender<R>(sender: String, handle: impl FnOnce() -> R) -> R {
    SENDER.set(sender);
    let reply = handle();
    SENDER.set(String::new());
    reply
}

/// Create an instance: with an empty state the first time, else from a snapshot.
pub(crate) fn begin<A: Actor>(state: &[u8]) -> Result<A> {
    let mut actor = if state.is_empty() {
        A::initial()
    } else {
        A::restore(state)?
    };
    actor.start()?;
    Ok(actor)
}
