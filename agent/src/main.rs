//! The agent in a machine: loads an application's WebAssembly and answers its messages.
//!
//! Every driver starts this program: the process driver as a child process, a guest's kernel as
//! process 1. `serve` speaks with the node over the `link`, `machine` is the agent's environment,
//! and `application` the running `actor` or `command`.

mod actor;
mod application;
mod arriving;
mod bounds;
mod command;
mod deadline;
mod guest;
mod host;
mod http;
mod link;
mod loading;
mod machine;
mod mailbox;
mod node;
mod occasion;
mod output;
mod process;
mod program;
mod room;
mod runner;
mod sandbox;
mod saving;
mod serve;
mod settings;
mod stacks;
mod system;
#[cfg(test)]
mod testing;
mod trap;

use std::sync::Arc;

use machine::Machine;
use runner::{Runner, Stack};
use serve::{Agent, Ended};

/// The exit status for a wrong command line, as in a shell.
const USAGE_STATUS: i32 = 2;

/// The exit status of an agent whose node is gone or refused it.
const NO_NODE_STATUS: i32 = 3;

/// The exit status of an agent whose actor cannot be restarted in this machine.
const GIVEN_UP_STATUS: i32 = 4;

/// The exit status of an agent that panicked: an internal software error.
const PANIC_STATUS: i32 = 70;

fn main() {
    tell_of_panics();
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if_eq("--version").is_some() {
        let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        println!("{name} {version} ({})", settings::ENGINE);
        return;
    }
    if arguments.next_if_eq("--probe").is_some() {
        match process::probe(arguments) {
            Ok(found) => println!("{found}"),
            Err(error) => fail(&error),
        }
        return;
    }
    system::give_back_large();
    let machine = if std::process::id() == 1 {
        guest::Guest::prepare().map(Machine::Guest)
    } else {
        process::Process::from_arguments(arguments).map(Machine::Process)
    };
    let machine = machine.unwrap_or_else(|error| fail(&error));
    let status = match serve(machine) {
        Ok((machine, ended)) => {
            let status = match &ended {
                Ended::Stopped => 0,
                Ended::GivenUp(_) => GIVEN_UP_STATUS,
                _ => NO_NODE_STATUS,
            };
            if status != 0 {
                eprintln!("plexspaces-agent: {ended}");
            }
            machine.end(status);
        }
        Err(error) => {
            eprintln!("plexspaces-agent: {error}");
            NO_NODE_STATUS
        }
    };
    std::process::exit(status);
}

/// Make a panic end the machine and report it on the console. A guest has its own way to end.
fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("plexspaces-agent: {panic}");
        std::process::exit(PANIC_STATUS);
    }));
}

fn serve(machine: Machine) -> wasmtime::Result<(Arc<Machine>, Ended)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Check the link each time a computing guest yields the thread.
        .event_interval(1)
        .build()?;
    let runner = Runner::start(Stack::OfActor, machine.is_template())?;
    // Tasks share the thread fairly, so the agent runs as one.
    let _in_runtime = runtime.enter();
    let agent = Agent::new(machine, runner);
    Ok(runtime.block_on(agent.run()))
}

fn fail(error: &str) -> ! {
    eprintln!("plexspaces-agent: {error}");
    std::process::exit(USAGE_STATUS);
}
