//! Write a PlexSpaces application in Rust.
//!
//! An application is a library crate that exports one [`Actor`]:
//!
//! ```
//! use plexspaces::{Actor, Failure, Handlers, Result, log};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Default, Serialize, Deserialize)] // state: survives a restart
//! #[serde(default)]
//! struct Counter {
//!     total: i64,
//! }
//!
//! impl Counter {
//!     fn add(&mut self, amount: i64) -> Result<i64> { // payload and reply: JSON
//!         self.total = (self.total.checked_add(amount))
//!             .ok_or_else(|| Failure::new("overflow", "the total is full"))?;
//!         log::info!("the total is {}", self.total);
//!         Ok(self.total)
//!     }
//!
//!     fn total(&self) -> i64 {
//!         self.total
//!     }
//! }
//!
//! impl Actor for Counter {
//!     fn handlers() -> Handlers<Self> {
//!         Handlers::new().on("add", Counter::add).on("total", Counter::total)
//!     }
//! }
//!
//! plexspaces::export!(Counter);
//! ```
//!
//! `plexspaces build` makes a WebAssembly component from it, `plexspaces deploy` runs it.
//!
//! A handler is a method, function or closure that takes the actor and perhaps the payload, and
//! returns the reply or a [`Result`] of it. The types say how both are written:
//!
//! | type | payload |
//! |---|---|
//! | `Vec<u8>` | the bytes as they are |
//! | `String` (replies also `&'static str`) | UTF-8 text |
//! | `()` | empty |
//! | all else | JSON, through serde |
//!
//! If a handler returns an error, the caller gets an error record and the actor continues: a
//! [`Failure`] has its own code; any other error, through `?`, gets the code `exception`, and the
//! place of the `?` is in the log. A payload of another form is answered with `bad-payload`, a
//! message without a handler with `unknown-message`.
//!
//! A *panic* ends the instance: Rust cannot unwind in WebAssembly. Its message goes to the log and
//! to the caller, and the next message gets a new instance with the last saved state.
//!
//! Use the standard library for time, randomness and environment variables; there are no files,
//! sockets or threads. In `cargo test` everything uses stand-ins: see [`testing`].

#![warn(missing_docs)]

mod actor;
mod failure;
mod handler;
pub mod keyvalue;
mod messaging;
mod payload;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod component;
#[cfg(target_arch = "wasm32")]
mod contract;
#[cfg(target_arch = "wasm32")]
use contract as host;

#[cfg(not(target_arch = "wasm32"))]
mod memory;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
#[cfg(not(target_arch = "wasm32"))]
use memory as host;

pub use actor::{Actor, State, sender};
pub use failure::{Failure, Result};
pub use handler::{Handler, Handlers, Reply};
pub use keyvalue::KeyValueError;
/// The application's log: the `log` crate, whose lines reach the node.
pub use log;
pub use messaging::{ask, tell};

/// Make an [`Actor`] the application: write it once, in `src/lib.rs`.
///
/// Outside of WebAssembly it only checks the type.
#[macro_export]
macro_rules! export {
    ($actor:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::Handlers<$actor> = <$actor as $crate::Actor>::handlers;

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::component;

            #[unsafe(export_name = "cabi_realloc")]
            unsafe extern "C" fn cabi_realloc(
                old: *mut u8,
                old_size: usize,
                align: usize,
                size: usize,
            ) -> *mut u8 {
                unsafe { component::reallocate(old, old_size, align, size) }
            }

            #[unsafe(export_name = "plexspaces:application/actor@0.1.0#init")]
            unsafe extern "C" fn init(state: *mut u8, size: usize) -> *const u32 {
                unsafe { component::init::<$actor>(state, size) }
            }

            #[unsafe(export_name = "plexspaces:application/actor@0.1.0#handle-message")]
            unsafe extern "C" fn handle_message(
                sender: *mut u8,
                sender_size: usize,
                message_type: *mut u8,
                message_type_size: usize,
                payload: *mut u8,
                payload_size: usize,
            ) -> *const u32 {
                unsafe {
                    component::handle_message(
                        (sender, sender_size),
                        (message_type, message_type_size),
                        (payload, payload_size),
                    )
                }
            }

            #[unsafe(export_name = "plexspaces:application/actor@0.1.0#snapshot-state")]
            extern "C" fn snapshot_state() -> *const u32 {
                component::snapshot_state()
            }

            #[unsafe(export_name = "plexspaces:application/actor@0.1.0#shutdown")]
            extern "C" fn shutdown() {
                component::shutdown()
            }

            #[unsafe(export_name = "cabi_post_plexspaces:application/actor@0.1.0#init")]
            extern "C" fn post_init(_result: *const u32) {
                component::release()
            }

            #[unsafe(export_name = "cabi_post_plexspaces:application/actor@0.1.0#handle-message")]
            extern "C" fn post_handle_message(_result: *const u32) {
                component::release()
            }

            #[unsafe(export_name = "cabi_post_plexspaces:application/actor@0.1.0#snapshot-state")]
            extern "C" fn post_snapshot_state(_result: *const u32) {
                component::release()
            }
        };
    };
}
