//! HTTP over the link: requests to a component of wasi:http, and those that applications send.
//!
//! `transfer` is one request's bodies as they go over the link, `heads` how heads cross it, `service` a
//! loaded component, `exchange` one request to it, `fetch` one request of an
//! application, `whole` one with its whole bodies.

pub(crate) mod exchange;
pub(crate) mod fetch;
pub(crate) mod heads;
pub(crate) mod service;
pub(crate) mod transfer;
mod whole;
