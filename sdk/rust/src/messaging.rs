//! Messages to other applications of the node, by name.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::payload::{decode, encode};
use crate::{Failure, Result, host};

/// Send `payload` without waiting for a reply; returns when it is in the other's mailbox.
///
/// Fails, for example, if the application does not exist or its mailbox is full.
pub fn tell<P>(to: &str, message_type: &str, payload: &P) -> Result<()>
where
    P: Serialize + ?Sized + 'static,
{
    host::tell(to, message_type, &encode(payload)?)
}

/// Send `payload`, wait for the answer at most `timeout` and return it as an `R`.
///
/// Fails with the other application's error record, the node's (`call-cycle` if the chain of asks
/// would lead back to an actor that already waits in it), or `bad-reply` if the answer is not an
/// `R`.
pub fn ask<R, P>(to: &str, message_type: &str, payload: &P, timeout: Duration) -> Result<R>
where
    R: DeserializeOwned + 'static,
    P: Serialize + ?Sized + 'static,
{
    let timeout_ms = timeout.as_millis().clamp(1, u32::MAX.into()) as u32;
    let reply = host::ask(to, message_type, &encode(payload)?, timeout_ms)?;
    decode(reply).map_err(|why| {
        Failure::new(
            "bad-reply",
            format!("the answer of {to:?} to {message_type:?}: {why}"),
        )
    })
}
