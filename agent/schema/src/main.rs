//! Generates the Rust code of the link's schema: `plexspaces-schema DESCRIPTORS DIRECTORY`.
//!
//! `DESCRIPTORS` is what protoc writes with `--descriptor_set_out`, so this does not need protoc.
//! Only `scripts/proto` runs it: its output is committed, and neither program depends on it.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use prost::Message;
use prost_build::Config;
use prost_types::FileDescriptorSet;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(descriptors), Some(directory), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: plexspaces-schema DESCRIPTORS DIRECTORY");
        return ExitCode::from(2);
    };
    match generate(&descriptors, directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", descriptors.display());
            ExitCode::FAILURE
        }
    }
}

fn generate(descriptors: &PathBuf, directory: PathBuf) -> Result<(), Box<dyn Error>> {
    let set = FileDescriptorSet::decode(&*fs::read(descriptors)?)?;
    Config::new()
        .out_dir(directory)
        // Maps in a fixed order, so that frames with the same content have the same bytes.
        .btree_map(["."])
        .bytes([".plexspaces.link.v3.Welcome.seed"])
        .compile_fds(set)?;
    Ok(())
}
