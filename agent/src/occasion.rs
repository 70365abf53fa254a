//! Why an application runs: the message that it handles, and the trace which that belongs to.

use std::fmt;

/// Where the parts of a `traceparent` are: version, trace id, the id of the parent, flags.
const PARTS: [usize; 4] = [2, 32, 16, 2];

/// The only version of the header that there is; a later one may mean something else.
const VERSION: &str = "00";

/// A trace, by the id that W3C's header `traceparent` has for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TraceId(Option<u128>);

impl TraceId {
    /// No trace.
    pub(crate) const NONE: Self = Self(None);

    /// Return the trace of a header's value; none if the value is not one of version 00.
    pub(crate) fn of(traceparent: &str) -> Self {
        Self(trace_id(traceparent))
    }

    /// Whether there is one.
    pub(crate) fn is_some(self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Display for TraceId {
    /// 32 hexadecimal digits, or nothing.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |id| write!(out, "{id:032x}"))
    }
}

/// The message that an application handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Occasion {
    /// The id of its `Invoke`, or 0.
    pub(crate) invoke: u64,
    /// The trace that it belongs to.
    pub(crate) trace: TraceId,
}

impl Occasion {
    /// No message, as during `init`.
    pub(crate) const NONE: Self = Self {
        invoke: 0,
        trace: TraceId::NONE,
    };
}

fn trace_id(traceparent: &str) -> Option<u128> {
    let mut parts = traceparent.split('-');
    let [version, trace, parent, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let is_hexadecimal = |part: &str| {
        part.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let all = [version, trace, parent, flags];
    let is_well_formed = all.map(str::len) == PARTS
        && parts.next().is_none()
        && all.into_iter().all(is_hexadecimal)
        && version == VERSION;
    if !is_well_formed || u64::from_str_radix(parent, 16) == Ok(0) {
        return None;
    }
    u128::from_str_radix(trace, 16).ok().filter(|&id| id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_trace_is_known_by_the_digits_of_its_header() {
        let trace = TraceId::of(&format!("00-{TRACE}-b7ad6b7169203331-01"));
        assert!(trace.is_some());
        assert_eq!(trace.to_string(), TRACE);
    }

    #[test]
    fn what_is_no_header_of_version_00_is_no_trace() {
        let zeros = "0".repeat(32);
        for traceparent in [
            "",
            "00",
            "---",
            TRACE,
            &format!("01-{TRACE}-b7ad6b7169203331-01"),
            &format!("ff-{TRACE}-b7ad6b7169203331-01"),
            &format!("00-{TRACE}-b7ad6b7169203331-01-"),
            &format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            &format!("00-{TRACE}-b7ad6b7169203331-1"),
            &format!("00-{TRACE}-b7ad6b7169203331"),
            &format!("00-{}-b7ad6b7169203331-01", &TRACE[1..]),
            &format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            &format!("00-+{}-b7ad6b7169203331-01", &TRACE[1..]),
            &format!("00-{zeros}-b7ad6b7169203331-01"),
            &format!("00-{TRACE}-0000000000000000-01"),
            &format!(" 00-{TRACE}-b7ad6b7169203331-01"),
            &format!("00-{}-b7ad6b7169203331-01", "é".repeat(16)),
        ] {
            let trace = TraceId::of(traceparent);
            assert!(!trace.is_some(), "{traceparent}");
            assert_eq!(trace.to_string(), "");
        }
    }
}
