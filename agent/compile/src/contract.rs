//! The actor contract of `wit/application.wit`; a test compares it with that file.

/// The package and its version.
pub(crate) const PACKAGE: &str = "plexspaces:application";
/// The contract version that this node supports.
pub(crate) const VERSION: &str = "0.1.0";

/// The interface that an actor exports.
pub(crate) const ACTOR: &str = "plexspaces:application/actor@0.1.0";

/// The interface with the contract's types. It has no functions.
pub(crate) const TYPES: &str = "plexspaces:application/types@0.1.0";

/// The functions of an actor, with their types as `signature` spells them.
pub(crate) const ACTOR_FUNCTIONS: [(&str, &str); 4] = [
    (
        "handle-message",
        "func(string, string, list<u8>) -> result<list<u8>, record { code: string, message: \
         string, retryable: bool }>",
    ),
    ("init", "func(list<u8>) -> result<_, string>"),
    ("shutdown", "func()"),
    ("snapshot-state", "func() -> list<u8>"),
];

/// The interfaces that an actor can import, with their functions' types.
pub(crate) const HOST_FUNCTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "plexspaces:application/http@0.1.0",
        &[(
            "fetch",
            "func(record { method: string, url: string, headers: list<tuple<string, list<u8>>>, \
             body: list<u8>, timeout-ms: u32 }) -> result<record { status: u16, headers: \
             list<tuple<string, list<u8>>>, body: list<u8> }, record { code: string, message: \
             string, retryable: bool }>",
        )],
    ),
    (
        "plexspaces:application/keyvalue@0.1.0",
        &[
            ("delete", "func(string) -> result<_, string>"),
            ("get", "func(string) -> result<option<list<u8>>, string>"),
            ("put", "func(string, list<u8>) -> result<_, string>"),
        ],
    ),
    (
        "plexspaces:application/logging@0.1.0",
        &[(
            "log",
            "func(enum { trace, debug, info, warn, error }, string)",
        )],
    ),
    (
        "plexspaces:application/messaging@0.1.0",
        &[
            (
                "ask",
                "func(string, string, list<u8>, u32) -> result<list<u8>, record { code: string, \
                 message: string, retryable: bool }>",
            ),
            (
                "tell",
                "func(string, string, list<u8>) -> result<_, record { code: string, message: \
                 string, retryable: bool }>",
            ),
        ],
    ),
];

/// The hint for an artifact of another contract.
pub(crate) const HINT: &str = "build it from the wit/application.wit of version 0.1.0, or with the \
                               SDK that came with this version";

/// The version of a name of the contract; `None` for any other name.
pub(crate) fn version_of(name: &str) -> Option<&str> {
    let (interface, version) = name.split_once('@')?;
    let (package, _) = interface.split_once('/')?;
    (package == PACKAGE).then_some(version)
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use super::{ACTOR, ACTOR_FUNCTIONS, HOST_FUNCTIONS, PACKAGE, VERSION};

    const WIT: &str = include_str!("../../../wit/application.wit");
    const ACTOR_ERROR: &str = "record { code: string, message: string, retryable: bool }";
    const PAIRS: &str = "headers: list<tuple<string, list<u8>>>, body: list<u8>";
    const LEVEL: &str = "enum { trace, debug, info, warn, error }";

    /// The functions of an interface, their types spelled as `signature` does.
    fn functions(interface: &str) -> Vec<(String, String)> {
        let request =
            format!("func(record {{ method: string, url: string, {PAIRS}, timeout-ms: u32 }})");
        let response = format!("result<record {{ status: u16, {PAIRS} }}");
        let begin = WIT
            .find(&format!("interface {interface} {{"))
            .expect(interface);
        let body = WIT[begin..].split("\n}").next().expect(interface);
        let mut functions: Vec<_> = body
            .lines()
            .filter_map(|line| line.trim().trim_end_matches(';').split_once(": func("))
            .map(|(name, kind)| {
                let (parameters, result) = kind.rsplit_once(") -> ").map_or(
                    (kind.trim_end_matches(')'), String::new()),
                    |(parameters, result)| (parameters, format!(" -> {result}")),
                );
                let kinds: Vec<&str> = parameters
                    .split(", ")
                    .map(|one| one.split_once(": ").map_or(one, |(_, kind)| kind))
                    .collect();
                let kind = format!("func({}){result}", kinds.join(", "));
                let kind = kind
                    .replace("func(request)", &request)
                    .replace("result<response", &response)
                    .replace("actor-error", ACTOR_ERROR)
                    .replace("level", LEVEL);
                (name.to_owned(), kind)
            })
            .collect();
        functions.sort();
        functions
    }

    fn owned(functions: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, kind): &(&str, &str)| ((*name).to_owned(), (*kind).to_owned());
        functions.iter().map(owned).collect()
    }

    #[test]
    fn the_contract_is_that_of_the_wit_file() {
        assert!(WIT.contains(&format!("package {PACKAGE}@{VERSION};")));
        assert_eq!(ACTOR, format!("{PACKAGE}/actor@{VERSION}"));
        assert_eq!(functions("actor"), owned(&ACTOR_FUNCTIONS));
        for (name, there) in HOST_FUNCTIONS {
            let name = name.strip_prefix(&format!("{PACKAGE}/")).expect(name);
            let interface = name.strip_suffix(&format!("@{VERSION}")).expect(name);
            assert_eq!(functions(interface), owned(there), "{interface}");
        }
    }
}
