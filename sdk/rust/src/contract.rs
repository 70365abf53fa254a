//! The contract's imports, by the canonical ABI of `wit/application.wit`.
//!
//! Written by hand: a dozen functions of numbers and bytes need no generator, and a project needs
//! no crate for it.

use log::{Level, Log, Metadata, Record};

use crate::{Failure, Result};

/// What the contract says of this crate, for the linker of `wasm32-wasip2`: the encoded WIT.
#[unsafe(link_section = "component-type:plexspaces:application@0.1.0")]
#[used]
static COMPONENT_TYPE: [u8; include_bytes!("contract.component-type").len()] =
    *include_bytes!("contract.component-type");

mod import {
    #[link(wasm_import_module = "plexspaces:application/logging@0.1.0")]
    unsafe extern "C" {
        pub fn log(level: u32, message: *const u8, message_size: usize);
    }

    #[link(wasm_import_module = "plexspaces:application/keyvalue@0.1.0")]
    unsafe extern "C" {
        pub fn get(key: *const u8, key_size: usize, result: *mut u32);
        pub fn put(
            key: *const u8,
            key_size: usize,
            value: *const u8,
            value_size: usize,
            result: *mut u32,
        );
        pub fn delete(key: *const u8, key_size: usize, result: *mut u32);
    }

    #[link(wasm_import_module = "plexspaces:application/messaging@0.1.0")]
    unsafe extern "C" {
        pub fn tell(
            to: *const u8,
            to_size: usize,
            message_type: *const u8,
            message_type_size: usize,
            payload: *const u8,
            payload_size: usize,
            result: *mut u32,
        );
        pub fn ask(
            to: *const u8,
            to_size: usize,
            message_type: *const u8,
            message_type_size: usize,
            payload: *const u8,
            payload_size: usize,
            timeout_ms: u32,
            result: *mut u32,
        );
    }
}

/// Where the host writes a result: its case in the first byte, then its fields, a word each.
#[derive(Default)]
struct Returned([u32; 6]);

impl Returned {
    fn is_err(&self) -> bool {
        self.case(0)
    }

    /// A case or a bool takes the first byte of its word; the others are not written.
    fn case(&self, word: usize) -> bool {
        self.0[word].to_le_bytes()[0] != 0
    }

    /// # Safety
    ///
    /// A list must lie there, and must not be taken twice.
    unsafe fn bytes(&self, word: usize) -> Vec<u8> {
        unsafe { taken(self.0[word] as *mut u8, self.0[word + 1] as usize) }
    }

    /// # Safety
    ///
    /// As for `bytes`.
    unsafe fn text(&self, word: usize) -> String {
        unsafe { text(self.bytes(word)) }
    }

    /// # Safety
    ///
    /// An `actor-error` must lie there, and must not be taken twice.
    unsafe fn failure(&self) -> Failure {
        let (code, message) = unsafe { (self.text(1), self.text(3)) };
        let failure = Failure::new(code, message);
        if self.case(5) {
            failure.retryable()
        } else {
            failure
        }
    }
}

/// Own what the other side wrote into memory from `component::reallocate`.
///
/// # Safety
///
/// Only once for what was written, and with its very size.
pub(crate) unsafe fn taken(at: *mut u8, size: usize) -> Vec<u8> {
    match size {
        0 => Vec::new(),
        _ => unsafe { Vec::from_raw_parts(at, size, size) },
    }
}

pub(crate) fn text(bytes: Vec<u8>) -> String {
    // The canonical ABI promises UTF-8; nothing is lost by looking.
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into())
}

pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>, String> {
    let mut returned = Returned::default();
    unsafe {
        import::get(key.as_ptr(), key.len(), returned.0.as_mut_ptr());
        match returned.is_err() {
            true => Err(returned.text(1)),
            false => Ok(returned.case(1).then(|| returned.bytes(2))),
        }
    }
}

pub(crate) fn put(key: &str, value: &[u8]) -> Result<(), String> {
    let mut returned = Returned::default();
    unsafe {
        let result = returned.0.as_mut_ptr();
        import::put(key.as_ptr(), key.len(), value.as_ptr(), value.len(), result);
        if returned.is_err() {
            Err(returned.text(1))
        } else {
            Ok(())
        }
    }
}

pub(crate) fn delete(key: &str) -> Result<(), String> {
    let mut returned = Returned::default();
    unsafe {
        import::delete(key.as_ptr(), key.len(), returned.0.as_mut_ptr());
        if returned.is_err() {
            Err(returned.text(1))
        } else {
            Ok(())
        }
    }
}

pub(crate) fn tell(to: &str, message_type: &str, payload: &[u8]) -> Result<()> {
    let mut returned = Returned::default();
    unsafe {
        import::tell(
            to.as_ptr(),
            to.len(),
            message_type.as_ptr(),
            message_type.len(),
            payload.as_ptr(),
            payload.len(),
            returned.0.as_mut_ptr(),
        );
        if returned.is_err() {
            Err(returned.failure())
        } else {
            Ok(())
        }
    }
}

pub(crate) fn ask(
    to: &str,
    message_type: &str,
    payload: &[u8],
    timeout_ms: u32,
) -> Result<Vec<u8>> {
    let mut returned = Returned::default();
    unsafe {
        import::ask(
            to.as_ptr(),
            to.len(),
            message_type.as_ptr(),
            message_type.len(),
            payload.as_ptr(),
            payload.len(),
            timeout_ms,
            returned.0.as_mut_ptr(),
        );
        if returned.is_err() {
            Err(returned.failure())
        } else {
            Ok(returned.bytes(1))
        }
    }
}

/// Sends the lines of the `log` crate to the application's log.
pub(crate) struct HostLog;

impl Log for HostLog {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let message = record.args().to_string();
        let level = match record.level() {
            Level::Trace => 0,
            Level::Debug => 1,
            Level::Info => 2,
            Level::Warn => 3,
            Level::Error => 4,
        };
        unsafe { import::log(level, message.as_ptr(), message.len()) }
    }

    fn flush(&self) {}
}
