//! The host outside of WebAssembly: a stand-in in memory, one a thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::testing::Told;
use crate::{Failure, Result};

pub(crate) type Answer = Rc<dyn Fn(&str, &[u8]) -> Result<Vec<u8>>>;

#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) values: BTreeMap<String, Vec<u8>>,
    pub(crate) told: Vec<Told>,
    pub(crate) applications: BTreeMap<String, Answer>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

pub(crate) fn with<R>(act: impl FnOnce(&mut Memory) -> R) -> R {
    MEMORY.with_borrow_mut(act)
}

pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>, String> {
    Ok(with(|memory| memory.values.get(key).cloned()))
}

pub(crate) fn put(key: &str, value: &[u8]) -> Result<(), String> {
    with(|memory| memory.values.insert(key.to_owned(), value.to_vec()));
    Ok(())
}

pub(crate) fn delete(key: &str) -> Result<(), String> {
    with(|memory| memory.values.remove(key));
    Ok(())
}

pub(crate) fn tell(to: &str, message_type: &str, payload: &[u8]) -> Result<()> {
    let told = Told {
        to: to.to_owned(),
        message_type: message_type.to_owned(),
        payload: payload.to_vec(),
    };
    with(|memory| memory.told.push(told));
    Ok(())
}

pub(crate) fn ask(
    to: &str,
    message_type: &str,
    payload: &[u8],
    _timeout_ms: u32,
) -> Result<Vec<u8>> {
    let answer = with(|memory| memory.applications.get(to).cloned());
    match answer {
        Some(answer) => answer(message_type, payload),
        None => Err(Failure::new(
            "not-found",
            format!("no application named {to:?}"),
        )),
    }
}
