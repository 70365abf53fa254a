//! What both ends of the link agree on: its generation and its limits.

/// The link's generation; another one is refused at the handshake.
pub(crate) const GENERATION: u32 = 3;

/// The longest head of a frame.
pub(crate) const HEAD_LIMIT_BYTES: usize = 1024 * 1024;

/// The longest part of a state.
pub(crate) const PART_BYTES: usize = 1024 * 1024;

/// The longest message any node allows.
pub(crate) const MAX_MESSAGE_LIMIT_BYTES: usize = 256 * 1024 * 1024;

/// The longest text of an error or a log line; a longer one is cut and marked.
pub(crate) const TEXT_BYTES: usize = 16 * 1024;

/// The longest code of an actor's error, and the longest type of a message.
pub(crate) const CODE_BYTES: usize = 256;

/// How much of an HTTP body may be sent before its receiver allows more; the longest part of one.
pub(crate) const WINDOW_BYTES: usize = 256 * 1024;
