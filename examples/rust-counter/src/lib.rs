//! Counters by name: typed JSON in and out, state that survives, a durable store, error records.
//!
//! See README.md for what can be sent to it.

use std::collections::BTreeMap;

use plexspaces::{Actor, Failure, Handlers, Result, keyvalue, log, tell};
use serde::{Deserialize, Serialize};

/// The actor. Its fields are its state: they survive a restart, and `default` lets a
/// later version of this struct, with more fields, take over what this one saved.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    values: BTreeMap<String, u64>,
    watcher: Option<String>,
}

/// What to count.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    pub name: String,
    #[serde(default = "one")]
    pub amount: i64,
}

/// A counter as it is now.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    pub name: String,
    pub value: u64,
}

impl Actor for Counters {
    fn handlers() -> Handlers<Self> {
        Handlers::new()
            .on("add", Self::add)
            .on("get", Self::get)
            .on("all", Self::all)
            .on("close", Self::close)
            .on("closed", Self::closed)
            .on("watch", Self::watch)
            .on("primes", Self::primes)
    }
}

impl Counters {
    pub fn add(&mut self, change: Change) -> Result<Counter> {
        let before = self.values.get(&change.name).copied().unwrap_or_default();
        let Some(value) = before.checked_add_signed(change.amount) else {
            // The caller gets this as an error record; the actor and its state live on.
            return Err(Failure::new(
                "out-of-range",
                format!(
                    "{} is {before}: {:+} is too much",
                    change.name, change.amount
                ),
            ));
        };
        self.values.insert(change.name.clone(), value);
        log::info!("{} {:+} = {value}", change.name, change.amount);
        let counter = Counter {
            name: change.name,
            value,
        };
        if let Some(watcher) = &self.watcher {
            // Counted is counted, whoever listens.
            tell(watcher, "counted", &counter)
                .unwrap_or_else(|failure| log::warn!("{watcher} was not told: {failure}"));
        }
        Ok(counter)
    }

    /// A `String` is the payload as text; any other type would be JSON.
    pub fn get(&self, name: String) -> Result<u64> {
        self.values
            .get(&name)
            .copied()
            .ok_or_else(|| unknown(&name))
    }

    pub fn all(&self) -> BTreeMap<String, u64> {
        self.values.clone()
    }

    /// Take a counter away and keep its last value, in the store: it may hold more than the state.
    pub fn close(&mut self, name: String) -> Result<u64> {
        let value = self.values.remove(&name).ok_or_else(|| unknown(&name))?;
        keyvalue::put(&format!("closed/{name}"), &value)?;
        Ok(value)
    }

    pub fn closed(&self, name: String) -> Result<u64> {
        let value = keyvalue::get(&format!("closed/{name}"))?;
        value.ok_or_else(|| Failure::new("not-found", format!("{name:?} was never closed")))
    }

    /// Have another application told of every change; nobody, with an empty name.
    pub fn watch(&mut self, application: String) {
        self.watcher = Some(application).filter(|name| !name.is_empty());
    }

    /// Real work: how many primes there are up to `limit`.
    pub fn primes(&self, limit: u64) -> usize {
        (2..=limit).filter(|number| is_prime(*number)).count()
    }
}

fn one() -> i64 {
    1
}

fn unknown(name: &str) -> Failure {
    Failure::new("not-found", format!("there is no counter {name:?}"))
}

/// Trial division by 2 and the odd numbers, as in every example of `plexspaces run`.
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

plexspaces::export!(Counters);
