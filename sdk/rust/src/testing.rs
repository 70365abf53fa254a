//! Test an application without a node: in `cargo test`.
//!
//! ```
//! # use plexspaces::{Actor, Handlers, Result, keyvalue, tell, testing};
//! # #[derive(Default, serde::Serialize, serde::Deserialize)]
//! # struct Counter { count: i64 }
//! # impl Counter {
//! #     fn add(&mut self, amount: i64) -> Result<i64> {
//! #         self.count += amount;
//! #         keyvalue::put("last", &self.count)?;
//! #         tell("audit", "added", &amount)?;
//! #         Ok(self.count)
//! #     }
//! # }
//! # impl Actor for Counter {
//! #     fn handlers() -> Handlers<Self> { Handlers::new().on("add", Counter::add) }
//! # }
//! let host = testing::memory();
//! host.application("greeter", |_message_type, _payload| Ok(b"hello".to_vec()));
//! let mut counter = Counter::default();
//!
//! assert_eq!(counter.add(2).unwrap(), 2);                          // the method itself
//! assert_eq!(testing::send(&mut counter, "add", "3").unwrap(), b"5"); // as the node would
//! assert_eq!(testing::restarted(&counter).unwrap().count, 5);
//! assert_eq!(host.value("last").unwrap(), b"5");                   // what keyvalue holds
//! assert_eq!(host.told()[1].payload, b"3");                        // what was told to others
//! ```

use std::rc::Rc;

use crate::actor::{begin, with_sender};
use crate::{Actor, Result, memory};

/// A message that [`tell`](crate::tell) sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Name of the application.
    pub to: String,
    /// Type of the message.
    pub message_type: String,
    /// The payload as the other would get it.
    pub payload: Vec<u8>,
}

/// The stand-in for the node in this thread; made by [`memory`].
#[derive(Debug)]
pub struct Memory(());

/// Begin anew in this thread: no keys, nothing told, nobody to ask.
pub fn memory() -> Memory {
    memory::with(|memory| *memory = memory::Memory::default());
    Memory(())
}

impl Memory {
    /// What [`keyvalue`](crate::keyvalue) holds under `key`.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        memory::with(|memory| memory.values.get(key).cloned())
    }

    /// What was told to others, oldest first.
    pub fn told(&self) -> Vec<Told> {
        memory::with(|memory| memory.told.clone())
    }

    /// Have `answer` called with the type and payload of what is asked of application `name`.
    pub fn application(
        &self,
        name: &str,
        answer: impl Fn(&str, &[u8]) -> Result<Vec<u8>> + 'static,
    ) {
        memory::with(|memory| memory.applications.insert(name.to_owned(), Rc::new(answer)));
    }
}

/// Hand a client's message to the actor as the node would, and return the reply.
pub fn send<A: Actor>(
    actor: &mut A,
    message_type: &str,
    payload: impl AsRef<[u8]>,
) -> Result<Vec<u8>> {
    send_as("", actor, message_type, payload)
}

/// Hand the message of another application to the actor.
pub fn send_as<A: Actor>(
    sender: &str,
    actor: &mut A,
    message_type: &str,
    payload: impl AsRef<[u8]>,
) -> Result<Vec<u8>> {
    let payload = payload.as_ref().to_vec();
    with_sender(sender.to_owned(), || {
        A::handlers().receive(actor, message_type, payload)
    })
}

/// Return a new instance with the state of `actor`, as after a restart.
pub fn restarted<A: Actor>(actor: &A) -> Result<A> {
    begin(&actor.snapshot()?)
}
