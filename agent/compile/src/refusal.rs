//! Why a file cannot run here, in words for its user.

/// Names quoted from a file are cut to this many characters.
const NAME_CHARACTERS: usize = 200;

/// How many names are listed.
const NAMES: usize = 20;

/// Why a file cannot run here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The fact and the wrong value.
    pub(crate) message: String,
    /// What helps.
    pub(crate) hint: String,
}

impl Refusal {
    /// Refuse for this reason.
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }
}

/// A name from the file, in quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("'{}'", plain(name))
}

/// A name from the file that is safe to show: short, and without control characters.
pub(crate) fn plain(name: &str) -> String {
    let mut shown: String = name
        .chars()
        .take(NAME_CHARACTERS)
        .flat_map(|one| {
            let control = one.is_control();
            let escaped = control.then(|| one.escape_unicode());
            escaped
                .into_iter()
                .flatten()
                .chain((!control).then_some(one))
        })
        .collect();
    if name.chars().nth(NAME_CHARACTERS).is_some() {
        shown.push('…');
    }
    shown
}

/// Names from the file, only the first of them.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter();
    let mut shown: Vec<String> = names.by_ref().take(NAMES).map(plain).collect();
    let more = names.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::{listed, plain};

    #[test]
    fn names_are_shown_without_control_characters_and_short() {
        assert_eq!(plain("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(plain(&"x".repeat(1000)).chars().count(), 201);
    }

    #[test]
    fn long_lists_say_how_many_there_are() {
        let names = vec!["n"; 25];
        assert!(listed(names).ends_with("n, and 5 more"));
    }
}
