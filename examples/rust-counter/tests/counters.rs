//! Plain `cargo test`, without a node and without WebAssembly.

use plexspaces::testing::{self, send};
use rust_counter::{Change, Counter, Counters};

fn change(name: &str, amount: i64) -> Change {
    Change {
        name: name.to_owned(),
        amount,
    }
}

#[test]
fn counters_count_each_by_its_name() {
    let mut counters = Counters::default();

    counters.add(change("apples", 3)).unwrap();
    counters.add(change("pears", 1)).unwrap();
    let apples = counters.add(change("apples", -2)).unwrap();

    assert_eq!(
        apples,
        Counter {
            name: "apples".to_owned(),
            value: 1
        }
    );
    assert_eq!(
        send(&mut counters, "all", "").unwrap(),
        br#"{"apples":1,"pears":1}"#
    );
}

#[test]
fn messages_are_json_or_text_as_a_client_sends_them() {
    let mut counters = Counters::default();

    let reply = send(&mut counters, "add", r#"{"name": "apples"}"#).unwrap();

    assert_eq!(reply, br#"{"name":"apples","value":1}"#);
    assert_eq!(send(&mut counters, "get", "apples").unwrap(), b"1");
}

#[test]
fn what_is_below_zero_is_an_error_record_and_changes_nothing() {
    let mut counters = Counters::default();
    counters.add(change("apples", 2)).unwrap();

    let failure = counters.add(change("apples", -3)).unwrap_err();

    assert_eq!(failure.code, "out-of-range");
    assert_eq!(counters.get("apples".to_owned()).unwrap(), 2);
}

#[test]
fn a_payload_of_another_form_is_refused() {
    let failure = send(&mut Counters::default(), "add", r#"{"amount": 1}"#).unwrap_err();

    assert_eq!(failure.code, "bad-payload");
    assert!(
        failure.message.contains("missing field `name`"),
        "{failure}"
    );
}

#[test]
fn the_state_survives_a_restart() {
    let mut counters = Counters::default();
    counters.add(change("apples", 7)).unwrap();

    let again = testing::restarted(&counters).unwrap();

    assert_eq!(again.all(), counters.all());
}

#[test]
fn a_closed_counter_is_in_the_store() {
    let host = testing::memory();
    let mut counters = Counters::default();
    counters.add(change("apples", 5)).unwrap();

    assert_eq!(counters.close("apples".to_owned()).unwrap(), 5);

    assert_eq!(
        counters.get("apples".to_owned()).unwrap_err().code,
        "not-found"
    );
    assert_eq!(counters.closed("apples".to_owned()).unwrap(), 5);
    assert_eq!(host.value("closed/apples").unwrap(), b"5");
}

#[test]
fn the_watcher_is_told_of_every_change() {
    let host = testing::memory();
    let mut counters = Counters::default();
    counters.watch("audit".to_owned());

    counters.add(change("apples", 5)).unwrap();

    let [told] = &host.told()[..] else {
        panic!("one message, not {:?}", host.told())
    };
    assert_eq!((&*told.to, &*told.message_type), ("audit", "counted"));
    assert_eq!(told.payload, br#"{"name":"apples","value":5}"#);
}

#[test]
fn primes_are_counted() {
    for (limit, count) in [(0, 0), (1, 0), (2, 1), (10, 4), (1000, 168)] {
        assert_eq!(Counters::default().primes(limit), count);
    }
}
