//! A small durable store that belongs to the application.
//!
//! A value that [`put`] has stored survives the actor, its VM and the node. Values are written like
//! replies and read like payloads.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host;
use crate::payload::{decode, encode};

/// The store refused, for example because it is full, or a value is of another type.
#[derive(Clone, Debug)]
pub struct KeyValueError(pub(crate) String);

impl Display for KeyValueError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for KeyValueError {}

/// Return the value of `key`, or None.
pub fn get<T: DeserializeOwned + 'static>(key: &str) -> Result<Option<T>, KeyValueError> {
    let Some(value) = host::get(key).map_err(KeyValueError)? else {
        return Ok(None);
    };
    let value = decode(value);
    value
        .map(Some)
        .map_err(|why| KeyValueError(format!("the value of {key:?}: {why}")))
}

/// Store `value`, replacing an existing one.
pub fn put<T: Serialize + ?Sized + 'static>(key: &str, value: &T) -> Result<(), KeyValueError> {
    let value =
        encode(value).map_err(|error| KeyValueError(format!("the value for {key:?}: {error}")))?;
    host::put(key, &value).map_err(KeyValueError)
}

/// Delete `key`, if it exists.
pub fn delete(key: &str) -> Result<(), KeyValueError> {
    host::delete(key).map_err(KeyValueError)
}
