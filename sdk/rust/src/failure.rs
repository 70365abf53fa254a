//! The errors that an application sees.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::panic::Location;

/// The result of a handler that can fail.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// An error record: return it to answer with it; [`ask`](crate::ask) and [`tell`](crate::tell)
/// return that of the other application.
///
/// Any error of the standard library or a crate becomes one through `?`, with the code
/// `exception`.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Short and stable, for programs: `not-found`, `division-by-zero`.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether the same message may succeed later.
    pub retryable: bool,
    trace: Option<String>,
}

impl Failure {
    /// A failure for which a retry would not help.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: false,
            trace: None,
        }
    }

    /// The same failure, for a message that may succeed later.
    pub fn retryable(self) -> Self {
        Self {
            retryable: true,
            ..self
        }
    }

    /// Where an error that the handler did not expect came from, and its causes.
    #[allow(dead_code)] // used in the component only
    pub(crate) fn trace(&self) -> Option<&str> {
        self.trace.as_deref()
    }
}

impl Display for Failure {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => formatter.write_str(&self.code),
            message => write!(formatter, "{}: {message}", self.code),
        }
    }
}

/// `Failure` itself is no [`Error`], so that it can be made of every one.
impl<E: Error + 'static> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        let mut trace = format!("{error}\n  at {}", Location::caller());
        let mut cause = error.source();
        while let Some(error) = cause {
            trace.push_str(&format!("\n  caused by: {error}"));
            cause = error.source();
        }
        Self {
            trace: Some(trace),
            ..Self::new("exception", error.to_string())
        }
    }
}
