//! The agent's parameters from the kernel's command line.

const VM: &str = "plexspaces.vm";
const LINK: &str = "plexspaces.link";
const TEMPLATE: &str = "plexspaces.template";

/// How the node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// A virtio port that the host connects to, by its name below `/dev`.
    VirtioSerial { name: String },
    /// A connection to a port of the host.
    Vsock { cid: u32, port: u32 },
}

impl Link {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "virtio-serial" if !rest.is_empty() && !rest.contains([':', '/']) => {
                Some(Self::VirtioSerial {
                    name: rest.to_owned(),
                })
            }
            "vsock" => {
                let (cid, port) = rest.split_once(':')?;
                Some(Self::Vsock {
                    cid: cid.parse().ok()?,
                    port: port.parse().ok()?,
                })
            }
            _ => None,
        }
    }
}

/// The arguments of the agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    /// Empty if it was not given.
    pub(super) vm_id: String,
    pub(super) link: Link,
    /// Whether this machine will be copied.
    pub(super) template: bool,
}

impl Arguments {
    /// Parse them. If a parameter is given twice, the last one counts.
    pub(super) fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut vm_id, mut link, mut template) = (String::new(), String::new(), false);
        for word in words {
            match word.split_once('=') {
                Some((VM, value)) => value.clone_into(&mut vm_id),
                Some((LINK, value)) => value.clone_into(&mut link),
                _ => template |= word == TEMPLATE,
            }
        }
        if link.is_empty() {
            return Err(format!("the kernel's command line needs {LINK}=LINK"));
        }
        let link = Link::parse(&link).ok_or_else(|| {
            format!("{LINK}={link} is neither virtio-serial:DEVICE nor vsock:CID:PORT")
        })?;
        Ok(Self {
            vm_id,
            link,
            template,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_command_line_that_names_both_gives_id_and_link() {
        let told = "console=ttyS0 plexspaces.vm=vm-1 quiet plexspaces.link=vsock:2:52\n";
        let link = Link::Vsock { cid: 2, port: 52 };
        let vm_id = "vm-1".to_owned();
        let expected = Arguments {
            vm_id,
            link,
            template: false,
        };
        assert_eq!(parsed(told), Ok(expected));
    }

    #[test]
    fn a_machine_that_will_be_copied_is_told_so_and_not_its_id() {
        let told = "plexspaces.template plexspaces.link=virtio-serial:vport0p1";
        let name = "vport0p1".to_owned();
        let expected = Arguments {
            vm_id: String::new(),
            link: Link::VirtioSerial { name },
            template: true,
        };
        assert_eq!(parsed(told), Ok(expected));
    }

    #[test]
    fn a_command_line_without_a_link_is_refused_by_the_words_name() {
        for told in [
            "",
            "plexspaces.vm=vm-1",
            "plexspaces.link=",
            "xplexspaces.link=vsock:2:1",
        ] {
            let refused = parsed(told).unwrap_err();
            assert!(refused.contains("needs plexspaces.link=LINK"), "{refused}");
        }
    }

    #[test]
    fn a_link_that_is_not_known_is_refused_with_what_is() {
        for link in [
            "tcp:1.2.3.4:5",
            "virtio-serial:",
            "virtio-serial:a:b",
            "virtio-serial:../a",
            "virtio-serial",
            "vsock:2",
            "vsock:2:x",
            "vsock:2:1:3",
            "vsock:-1:4294967296",
        ] {
            let refused = parsed(&format!("plexspaces.link={link}")).unwrap_err();
            assert!(refused.contains(link), "{refused}");
            assert!(
                refused.contains("virtio-serial:DEVICE nor vsock:CID:PORT"),
                "{refused}"
            );
        }
    }
}
