//! The messages of `tests/actors/README.md`, in Rust.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use plexspaces::{Actor, Failure, Handlers, Result, ask, keyvalue, log, sender, tell};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Conformance {
    count: u64,
}

#[derive(Deserialize)]
struct Put {
    key: String,
    value: String,
}

#[derive(Deserialize)]
struct Message {
    to: String,
    r#type: String,
    data: String,
    timeout_ms: u64,
}

impl Actor for Conformance {
    fn handlers() -> Handlers<Self> {
        Handlers::new()
            .on("echo", |_: &Self, data: Vec<u8>| data)
            .on("upper", |_: &Self, text: String| text.to_uppercase())
            .on("count", Self::count)
            .on("state", |actor: &Self| actor.count)
            .on("sender", |_: &Self| sender())
            .on("put", Self::put)
            .on("get", Self::get)
            .on("delete", Self::delete)
            .on("ask", Self::ask)
            .on("tell", Self::tell)
            .on("fail", Self::fail)
            .on("throw", Self::throw)
            .on("log", |_: &Self, text: String| log::info!("{text}"))
            .on("env", |_: &Self, name: String| {
                std::env::var(name).unwrap_or_default()
            })
            .on("now", Self::now)
            .on("random", Self::random)
            .on("loop", |_: &Self| run_for_ever())
            .on("hoard", |_: &Self| hoard())
            .on("primes", |_: &Self, limit: u64| primes(limit))
    }
}

impl Conformance {
    fn count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn put(&self, put: Put) -> Result<()> {
        Ok(keyvalue::put(&put.key, &put.value)?)
    }

    fn get(&self, key: String) -> Result<Vec<u8>> {
        Ok(keyvalue::get(&key)?.unwrap_or_default())
    }

    fn delete(&self, key: String) -> Result<()> {
        Ok(keyvalue::delete(&key)?)
    }

    fn ask(&self, message: Message) -> Result<Vec<u8>> {
        let timeout = Duration::from_millis(message.timeout_ms);
        ask(&message.to, &message.r#type, &message.data, timeout)
    }

    fn tell(&self, message: Message) -> Result<&'static str> {
        tell(&message.to, &message.r#type, &message.data)?;
        Ok("told")
    }

    fn fail(&self, text: String) -> Result<()> {
        Err(Failure::new("asked", text).retryable())
    }

    fn throw(&self, text: String) {
        panic!("boom: {text}");
    }

    fn now(&self) -> Result<u64> {
        let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(passed.as_millis() as u64)
    }

    fn random(&self) -> Result<String> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn run_for_ever() {
    let mut turns: u64 = 0;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn hoard() {
    let mut hoarded = Vec::new();
    loop {
        hoarded.push(black_box(vec![1_u8; 1 << 20]));
    }
}

fn primes(limit: u64) -> usize {
    (2..=limit).filter(|number| is_prime(*number)).count()
}

fn is_prime(number: u64) -> bool {
    if number % 2 == 0 {
        return number == 2;
    }
    let mut divisor = 3;
    while divisor * divisor <= number {
        if number % divisor == 0 {
            return false;
        }
        divisor += 2;
    }
    true
}

plexspaces::export!(Conformance);

#[cfg(test)]
mod tests {
    use plexspaces::testing::{self, send, send_as};

    use super::*;

    #[test]
    fn every_payload_has_its_form() {
        let host = testing::memory();
        let mut actor = Conformance::default();

        assert_eq!(send(&mut actor, "echo", b"\x00\xff").unwrap(), b"\x00\xff");
        assert_eq!(
            send(&mut actor, "upper", "größe").unwrap(),
            "GRÖSSE".as_bytes()
        );
        assert_eq!(send(&mut actor, "count", "").unwrap(), b"1");
        assert_eq!(send_as("them", &mut actor, "sender", "").unwrap(), b"them");
        assert_eq!(
            send(&mut actor, "put", r#"{"key":"k","value":"v"}"#).unwrap(),
            b""
        );
        assert_eq!(host.value("k").unwrap(), b"v");
        assert_eq!(send(&mut actor, "get", "k").unwrap(), b"v");
        assert_eq!(send(&mut actor, "primes", "1000").unwrap(), b"168");
        assert_eq!(testing::restarted(&actor).unwrap().count, 1);
    }
}
