//! Plain `cargo test`, without a node and without WebAssembly.

use app::{Greeter, Greeting, Person};
use plexspaces::testing::{self, send};

fn ada() -> Person {
    Person {
        name: "Ada".to_owned(),
    }
}

fn greeting(text: &str, count: u64) -> Greeting {
    Greeting {
        text: text.to_owned(),
        count,
    }
}

#[test]
fn greet_answers_by_name_and_counts() {
    let mut greeter = Greeter::default();

    assert_eq!(greeter.greet(ada()).unwrap(), greeting("Hello, Ada!", 1));
    // As the node calls it: the type of the message, and JSON in and out.
    let reply = send(&mut greeter, "greet", r#"{"name": "Grace"}"#).unwrap();
    let reply: Greeting = serde_json::from_slice(&reply).unwrap();
    assert_eq!(reply, greeting("Hello, Grace!", 2));
}

#[test]
fn greet_without_a_name_is_an_error_record() {
    let failure = send(&mut Greeter::default(), "greet", r#"{"name": ""}"#).unwrap_err();

    assert_eq!(failure.code, "no-name");
}

#[test]
fn greet_with_a_field_more_is_refused() {
    let failure = send(
        &mut Greeter::default(),
        "greet",
        r#"{"name": "Ada", "age": 36}"#,
    )
    .unwrap_err();

    assert_eq!(failure.code, "bad-payload");
}

#[test]
fn count_survives_a_restart() {
    let mut greeter = Greeter::default();
    greeter.greet(ada()).unwrap();

    assert_eq!(testing::restarted(&greeter).unwrap().count(), 1);
}
