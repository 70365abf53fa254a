//! __NAME__: an application for a PlexSpaces node. README.md says what can be sent to it.

use plexspaces::{Actor, Failure, Handlers, Result, log};
use serde::{Deserialize, Serialize};

/// The fields are the state: they survive a restart.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Greeter {
    count: u64,
}

/// What `greet` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    pub name: String,
}

/// What `greet` answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Greeting {
    pub text: String,
    pub count: u64,
}

impl Actor for Greeter {
    fn handlers() -> Handlers<Self> {
        Handlers::new()
            .on("greet", Self::greet)
            .on("count", Self::count)
    }
}

impl Greeter {
    pub fn greet(&mut self, person: Person) -> Result<Greeting> {
        if person.name.is_empty() {
            // The caller gets this as an error record; the actor and its state live on.
            return Err(Failure::new("no-name", "the name is empty"));
        }
        self.count += 1;
        log::info!("greeting {}, number {}", person.name, self.count);
        Ok(Greeting {
            text: format!("Hello, {}!", person.name),
            count: self.count,
        })
    }

    pub fn count(&self) -> u64 {
        self.count
    }
}

plexspaces::export!(Greeter);
