//! The decoder alone, from the sources of the agent.
#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../../src/link/frames.rs"]
pub(crate) mod frames;
#[path = "../../src/link/limits.rs"]
mod limits;
#[path = "../../src/link/proto.rs"]
pub(crate) mod proto;

pub(crate) use limits::*;
