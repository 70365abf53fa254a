//! The link to the node, with the frames of `proto/plexspaces/link/v3/link.proto`.
//!
//! `frames` cuts a byte stream into frames and serialises them, `stream` is the byte stream,
//! `connection` one connection of it with what waits to be sent.

pub(crate) mod connection;
pub(crate) mod failure;
pub(crate) mod frames;
mod limits;
#[allow(missing_docs, unreachable_pub, clippy::pedantic)]
#[rustfmt::skip]
pub(crate) mod proto;
pub(crate) mod stream;

pub(crate) use limits::*;
