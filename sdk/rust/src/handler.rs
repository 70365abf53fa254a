//! Handlers by message type: what can be one, and which of them a message goes to.

use std::any::type_name;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::payload::{decode, encode};
use crate::{Failure, Result};

type Answer<A> = Box<dyn Fn(&mut A, Vec<u8>) -> Result<Vec<u8>>>;

/// The handlers of an actor, by message type.
pub struct Handlers<A> {
    answers: BTreeMap<&'static str, Answer<A>>,
}

impl<A: 'static> Handlers<A> {
    /// No handlers yet.
    pub fn new() -> Self {
        Self {
            answers: BTreeMap::new(),
        }
    }

    /// Answer messages of this type with `handler`: a function of the actor, by `&` or `&mut`,
    /// and perhaps of the payload.
    ///
    /// Panics when the type has a handler already, and when the handler returns a `Result` whose
    /// error is no [`Failure`]: both are mistakes that show as soon as the actor starts.
    #[track_caller]
    pub fn on<M: 'static, H: Handler<A, M> + 'static>(
        mut self,
        message_type: &'static str,
        handler: H,
    ) -> Self {
        assert!(
            !H::is_misread(),
            "the handler of {message_type:?} returns a Result whose error is no plexspaces::Failure"
        );
        let answer = move |actor: &mut A, payload| handler.answer(actor, message_type, payload);
        let before = self.answers.insert(message_type, Box::new(answer));
        assert!(before.is_none(), "a second handler for {message_type:?}");
        self
    }

    pub(crate) fn receive(
        &self,
        actor: &mut A,
        message_type: &str,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>> {
        match self.answers.get(message_type) {
            Some(answer) => answer(actor, payload),
            None => Err(Failure::new("unknown-message", self.unknown(message_type))),
        }
    }

    fn unknown(&self, message_type: &str) -> String {
        let name = type_name::<A>().rsplit("::").next().unwrap_or_default();
        let known: Vec<&str> = self.answers.keys().copied().collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        format!("{name} does not know {message_type:?}; it knows: {known}")
    }
}

impl<A: 'static> Default for Handlers<A> {
    fn default() -> Self {
        Self::new()
    }
}

/// What can handle messages for an actor of type `A`. `M` only tells the forms apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a handler of messages",
    note = "a handler is `fn(&A) -> R`, `fn(&A, P) -> R`, or either with `&mut A`",
    note = "P must be `serde::de::DeserializeOwned`, R `serde::Serialize` or `Result<_>`"
)]
pub trait Handler<A, M> {
    /// Handle one message as it comes from the node, and return the reply.
    fn answer(&self, actor: &mut A, message_type: &str, payload: Vec<u8>) -> Result<Vec<u8>>;

    /// Whether what the handler returns would be misread: see [`Reply::is_misread`].
    fn is_misread() -> bool;
}

/// What a handler may return. `M` only tells the forms apart.
pub trait Reply<M> {
    /// The reply as it goes to the node.
    fn into_reply(self) -> Result<Vec<u8>>;

    /// Whether the type is a `Result` that would be taken for a reply.
    fn is_misread() -> bool {
        false
    }
}

/// Marks a reply that cannot fail.
pub struct Plain;

/// Marks a reply that may fail.
pub struct Fallible;

impl<T: Serialize + 'static> Reply<Plain> for T {
    fn into_reply(self) -> Result<Vec<u8>> {
        Ok(encode(&self)?)
    }

    fn is_misread() -> bool {
        // `Result<T, String>` is a `Serialize` too: it would be answered as {"Err":"..."}.
        type_name::<T>().starts_with("core::result::Result<")
    }
}

impl<T: Serialize + 'static> Reply<Fallible> for Result<T, Failure> {
    fn into_reply(self) -> Result<Vec<u8>> {
        Ok(encode(&self?)?)
    }
}

fn read<P: DeserializeOwned + 'static>(message_type: &str, payload: Vec<u8>) -> Result<P> {
    decode(payload).map_err(|why| Failure::new("bad-payload", format!("{message_type}: {why}")))
}

/// Marks a handler by what it takes: the actor by `&` or `&mut`, the payload or nothing.
pub struct Form<Takes, R, M>(PhantomData<(Takes, R, M)>);

macro_rules! form {
    ($actor:ty $(, $payload:ident)?) => {
        impl<A, F, R, M $(, $payload)?> Handler<A, Form<fn($actor $(, $payload)?), R, M>> for F
        where
            F: Fn($actor $(, $payload)?) -> R,
            R: Reply<M>,
            $($payload: DeserializeOwned + 'static,)?
        {
            #[allow(unused_variables)] // a form that takes no payload reads none
            fn answer(
                &self,
                actor: &mut A,
                message_type: &str,
                payload: Vec<u8>,
            ) -> Result<Vec<u8>> {
                self(actor $(, read::<$payload>(message_type, payload)?)?).into_reply()
            }

            fn is_misread() -> bool {
                R::is_misread()
            }
        }
    };
}

form!(&A);
form!(&A, P);
form!(&mut A);
form!(&mut A, P);

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;
    use crate::{Actor, State, testing};

    /// Saves its state in a form of its own: it is no `Serialize`.
    struct Tally(u8);

    impl State for Tally {
        fn initial() -> Self {
            Self(1)
        }

        fn restore(state: &[u8]) -> Result<Self> {
            match state {
                [number] => Ok(Self(*number)),
                _ => Err(Failure::new("bad-state", "one byte was expected")),
            }
        }

        fn snapshot(&self) -> Result<Vec<u8>> {
            Ok(vec![self.0])
        }
    }

    impl Tally {
        fn add(&mut self, number: u8) -> Result<u8> {
            let sum = self.0.checked_add(number);
            self.0 = sum.ok_or_else(|| Failure::new("full", "").retryable())?;
            Ok(self.0)
        }
    }

    fn parse(_: &Tally, text: String) -> Result<i64> {
        Ok(text.parse::<i64>()?)
    }

    impl Actor for Tally {
        fn handlers() -> Handlers<Self> {
            Handlers::new()
                .on("add", Self::add)
                .on("parse", parse)
                .on("twice", |tally: &Self| u16::from(tally.0) * 2)
                .on("clear", |tally: &mut Self| tally.0 = 0)
        }
    }

    #[test]
    fn methods_functions_and_closures_answer() {
        let mut tally = Tally::initial();

        assert_eq!(testing::send(&mut tally, "add", "2").unwrap(), b"3");
        assert_eq!(testing::send(&mut tally, "twice", "").unwrap(), b"6");
        assert_eq!(testing::send(&mut tally, "parse", "-4").unwrap(), b"-4");
        assert_eq!(testing::send(&mut tally, "clear", "").unwrap(), b"");
        assert_eq!(testing::restarted(&tally).unwrap().0, 0);
    }

    #[test]
    fn every_failure_has_its_code() {
        let mut tally = Tally::initial();
        let mut code = |message_type, payload| {
            let failure = testing::send(&mut tally, message_type, payload).unwrap_err();
            (failure.code, failure.retryable)
        };

        assert_eq!(code("add", "255"), ("full".to_owned(), true));
        assert_eq!(code("add", "256"), ("bad-payload".to_owned(), false));
        assert_eq!(code("parse", "x"), ("exception".to_owned(), false));
        assert_eq!(code("sub", ""), ("unknown-message".to_owned(), false));
    }

    #[test]
    fn an_unknown_type_is_answered_with_the_known_ones() {
        let failure = testing::send(&mut Tally::initial(), "sub", "").unwrap_err();

        assert_eq!(
            failure.message,
            "Tally does not know \"sub\"; it knows: add, clear, parse, twice"
        );
    }

    #[test]
    fn an_error_that_was_not_expected_tells_where_it_came_from() {
        let failure = testing::send(&mut Tally::initial(), "parse", "x").unwrap_err();

        let trace = failure.trace().unwrap();
        assert!(
            trace.starts_with("invalid digit found in string\n  at src"),
            "{trace}"
        );
        assert!(trace.contains("handler.rs:"), "{trace}");
    }

    #[test]
    fn mistakes_show_as_soon_as_the_handlers_are_made() {
        let twice = || Handlers::new().on("add", Tally::add).on("add", Tally::add);
        let misread = || {
            Handlers::new().on("text", |_: &Tally| -> std::result::Result<(), String> {
                Ok(())
            })
        };

        assert!(catch_unwind(twice).is_err());
        assert!(catch_unwind(misread).is_err());
    }
}
