//! Failures: the errors that cross the link.

use super::proto::{Failure, failure::Origin};
use super::{CODE_BYTES, TEXT_BYTES};

impl Failure {
    /// An error of the platform, with one of the codes of `plexspaces_node.errors`.
    pub(crate) fn platform(code: &str, message: impl Into<String>) -> Self {
        Self::new(Origin::Platform, code, message)
    }

    /// The application's own error.
    pub(crate) fn actor(code: &str, message: impl Into<String>) -> Self {
        Self::new(Origin::Actor, code, message)
    }

    /// A trap of the application's WebAssembly.
    pub(crate) fn trap(code: &str, message: impl Into<String>) -> Self {
        Self::new(Origin::Trap, code, message)
    }

    /// The failure, with a hint.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = cut(hint.into(), TEXT_BYTES);
        self
    }

    /// The failure, for a message that may succeed if it is sent again.
    #[must_use]
    pub(crate) fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    fn new(origin: Origin, code: &str, message: impl Into<String>) -> Self {
        Self {
            origin: origin.into(),
            code: cut(code.to_owned(), CODE_BYTES),
            message: cut(message.into(), TEXT_BYTES),
            ..Self::default()
        }
    }
}

/// Return the text, or its beginning and a mark if it is longer than this many bytes.
pub(crate) fn cut(mut text: String, limit_bytes: usize) -> String {
    const MARK: &str = " …";
    if text.len() > limit_bytes {
        text.truncate(text.floor_char_boundary(limit_bytes - MARK.len()));
        text.push_str(MARK);
    }
    text
}
