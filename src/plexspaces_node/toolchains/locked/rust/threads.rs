//! What Rust's standard library asks of a C library to start a thread, where that has none of it.
//!
//! A C library of today answers that there are no threads; one from before threads has not even the
//! names, and a program in which any crate could start one does not link. Weak, so that a library that
//! has them is preferred.
#![no_std]
#![feature(linkage)]
#![allow(internal_features)]

use core::ffi::{c_int, c_void};

/// WASI's number, which the standard library tells as `ErrorKind::Unsupported`.
const ENOTSUP: c_int = 58;

#[unsafe(no_mangle)]
#[linkage = "weak"]
extern "C" fn pthread_attr_init(_: *mut c_void) -> c_int {
    0
}

#[unsafe(no_mangle)]
#[linkage = "weak"]
extern "C" fn pthread_attr_setstacksize(_: *mut c_void, _: usize) -> c_int {
    0
}

#[unsafe(no_mangle)]
#[linkage = "weak"]
extern "C" fn pthread_attr_destroy(_: *mut c_void) -> c_int {
    0
}

#[unsafe(no_mangle)]
#[linkage = "weak"]
extern "C" fn pthread_create(
    _: *mut c_void,
    _: *const c_void,
    _: extern "C" fn(*mut c_void) -> *mut c_void,
    _: *mut c_void,
) -> c_int {
    ENOTSUP
}

// Of a thread, and there is none.
#[unsafe(no_mangle)]
#[linkage = "weak"]
extern "C" fn pthread_join(_: usize, _: *mut *mut c_void) -> c_int {
    ENOTSUP
}

#[unsafe(no_mangle)]
#[linkage = "weak"]
extern "C" fn pthread_detach(_: usize) -> c_int {
    ENOTSUP
}
