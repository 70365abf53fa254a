//! Bytes to typed values and back: the table in the crate's documentation.

use std::any::{Any, TypeId};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// Return a payload as a value, or say why it is none of that type.
pub(crate) fn decode<T: DeserializeOwned + 'static>(payload: Vec<u8>) -> Result<T, String> {
    if is::<T, Vec<u8>>() {
        return Ok(same(payload));
    }
    if is::<T, String>() {
        let text = String::from_utf8(payload).map_err(|error| format!("not UTF-8: {error}"))?;
        return Ok(same(text));
    }
    if is::<T, ()>() {
        return match payload.len() {
            0 => Ok(same(())),
            size => Err(format!("no payload was expected, not {size} bytes")),
        };
    }
    if payload.is_empty() {
        return Err("the payload is empty; JSON was expected".to_owned());
    }
    serde_json::from_slice(&payload).map_err(|error| explain(&error))
}

/// Return the library's words, after "not JSON" where that is what they mean.
fn explain(error: &serde_json::Error) -> String {
    let said = error.to_string();
    // Counted among the errors of syntax, and not one.
    let too_deep = said.starts_with("recursion limit");
    match error.classify() {
        Category::Syntax | Category::Eof if !too_deep => format!("not JSON: {said}"),
        _ => said,
    }
}

/// Return the payload that says `value`; fails for what JSON cannot say.
pub(crate) fn encode<T: Serialize + ?Sized + 'static>(
    value: &T,
) -> Result<Vec<u8>, serde_json::Error> {
    if let Some(raw) = raw_bytes(value) {
        return Ok(raw.to_vec());
    }
    if is::<T, ()>() {
        return Ok(Vec::new());
    }
    serde_json::to_vec(value)
}

/// Return what bytes and texts consist of, None for values of other types.
fn raw_bytes<T: ?Sized + 'static>(value: &T) -> Option<&[u8]> {
    let at: *const T = value;
    // Sound: a pointer to a `T` is used as a pointer to the very same type, under another name.
    unsafe {
        if is::<T, Vec<u8>>() {
            return Some(&*at.cast::<Vec<u8>>());
        }
        if is::<T, String>() {
            return Some((*at.cast::<String>()).as_bytes());
        }
        if is::<T, &'static str>() {
            return Some((*at.cast::<&'static str>()).as_bytes());
        }
        if is::<T, str>() || is::<T, [u8]>() {
            return Some(std::slice::from_raw_parts(
                at.cast::<u8>(),
                size_of_val(value),
            ));
        }
    }
    None
}

fn is<T: ?Sized + 'static, Other: ?Sized + 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<Other>()
}

/// Return a value as what it is; only called where `is` has said so.
fn same<T: 'static, Own: 'static>(value: Own) -> T {
    let mut value = Some(value);
    let value: &mut dyn Any = &mut value;
    let value = value.downcast_mut::<Option<T>>().and_then(Option::take);
    value.expect("both are one type")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn bytes_and_text_go_as_they_are() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(encode(&every).unwrap(), every);
        assert_eq!(encode(&every[..]).unwrap(), every);
        assert_eq!(decode::<Vec<u8>>(every.clone()).unwrap(), every);

        for text in [encode("größe").unwrap(), encode(&"größe").unwrap()] {
            assert_eq!(decode::<String>(text).unwrap(), "größe");
        }
        assert!(
            decode::<String>(every)
                .unwrap_err()
                .starts_with("not UTF-8")
        );
    }

    #[test]
    fn the_unit_is_an_empty_payload() {
        assert!(encode(&()).unwrap().is_empty());
        assert!(decode::<()>(Vec::new()).is_ok());
        assert!(decode::<()>(b"null".to_vec()).is_err());
    }

    #[test]
    fn all_else_is_json() {
        let map = BTreeMap::from([("a".to_owned(), Some(1)), ("b".to_owned(), None)]);
        assert_eq!(encode(&map).unwrap(), br#"{"a":1,"b":null}"#);
        assert_eq!(
            decode::<BTreeMap<_, _>>(encode(&map).unwrap()).unwrap(),
            map
        );
        assert_eq!(decode::<i64>(b"-7".to_vec()).unwrap(), -7);
        assert_eq!(encode(&Some("x")).unwrap(), b"\"x\"");
        assert!(
            decode::<bool>(b"1".to_vec())
                .unwrap_err()
                .contains("expected a boolean")
        );
        assert!(decode::<bool>(Vec::new()).unwrap_err().contains("empty"));
    }

    #[test]
    fn what_is_no_json_is_told_from_json_of_another_form() {
        for text in ["{not json", "3 4", "{\"a\":", "nul"] {
            let why = decode::<serde_json::Value>(text.into()).unwrap_err();
            assert!(why.starts_with("not JSON: "), "{why}");
        }
        let why = decode::<bool>(b"1".to_vec()).unwrap_err();
        assert!(why.starts_with("invalid type: integer `1`"), "{why}");
    }

    #[test]
    fn json_nested_deeply_is_refused_and_does_not_exhaust_the_stack() {
        let deep = vec![b'['; 1_000_000];
        let why = decode::<serde_json::Value>(deep).unwrap_err();
        assert!(why.starts_with("recursion limit exceeded"), "{why}");
    }
}
