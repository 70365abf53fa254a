//! Landlock: which files, ports and processes the agent can reach, whoever it is.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};

use super::HoldError;

/// The newest that is asked for; an older kernel gives what it has of it.
const NEWEST: ABI = ABI::V7;

/// Leave this process, all of whose threads are to come, nothing but to read files in `directory`.
///
/// No TCP, and no signal to and no abstract socket of a process outside. Returns which of it this
/// kernel lacks.
pub(crate) fn restrict(directory: &Path) -> Result<Vec<&'static str>, HoldError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(
            PathFd::new(directory)?,
            AccessFs::ReadFile,
        ))?
        .restrict_self()?;
    Ok(missing(&status))
}

/// Leave this thread, and what it starts, no file at all.
///
/// The other threads there are keep the machine's own, as far as no filter of system calls closes
/// it: a kernel before 7.0 has no way to restrict them from here.
pub(crate) fn close_directory() -> Result<(), HoldError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    Ok(())
}

fn missing(status: &RestrictionStatus) -> Vec<&'static str> {
    let LandlockStatus::Available { effective_abi, .. } = status.landlock else {
        return vec!["Landlock"];
    };
    let since = [
        (ABI::V4, "Landlock for TCP"),
        (ABI::V6, "Landlock for signals"),
    ];
    let lacking = since.into_iter().filter(|(abi, _)| effective_abi < *abi);
    lacking.map(|(_, name)| name).collect()
}
