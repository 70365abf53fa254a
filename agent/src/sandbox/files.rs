//! Landlock: which files, ports and processes the agent can reach, whichever user it is.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};

use super::HoldError;

/// The newest version that is asked for; an older kernel provides what it has of it.
const NEWEST: ABI = ABI::V7;

/// Restrict this process, all of whose threads start later, to reading files in `directory`.
///
/// No TCP, and no signals or abstract sockets to processes outside. Returns which of these this
/// kernel does not support.
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

/// Deny this thread, and the threads it starts, all files.
///
/// The other threads keep access to the machine's own files, unless the system call filter denies
/// it: kernels before 7.0 cannot restrict them from here.
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
