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
    message = "`{Self}` cannot handle messages for `{A}`",
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
