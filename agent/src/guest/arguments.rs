//! What the kernel's command line says to the agent.

const VM: &str = "plexspaces.vm";
const LINK: &str = "plexspaces.link";

/// How the node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// A virtio port, to which the host connects.
    VirtioSerial { name: String },
    /// A connection to a port of the host.
    Vsock { cid: u32, port: u32 },
}

impl Link {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "virtio-serial" if !rest.is_empty() && !rest.contains(':') => {
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
    /// Empty when the machine is not told.
    pub(super) vm_id: String,
    pub(super) link: Link,
}

impl Arguments {
    /// Read them from a command line; of a word that is given twice the last counts.
    pub(super) fn parse(told: &str) -> Result<Self, String> {
        let of = |key: &str| {
            let mut words = told.split_whitespace().rev();
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        let named = of(LINK).filter(|named| !named.is_empty());
        let named = named.ok_or_else(|| format!("the kernel's command line needs {LINK}=LINK"))?;
        Ok(Self {
            vm_id: of(VM).unwrap_or_default().to_owned(),
            link: Link::parse(named).ok_or_else(|| {
                format!("{LINK}={named} is neither virtio-serial:NAME nor vsock:CID:PORT")
            })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_names_both_gives_id_and_link() {
        let told = "console=ttyS0 plexspaces.vm=vm-1 quiet plexspaces.link=vsock:2:52\n";
        let link = Link::Vsock { cid: 2, port: 52 };
        let vm_id = "vm-1".to_owned();
        assert_eq!(Arguments::parse(told), Ok(Arguments { vm_id, link }));
    }

    #[test]
    fn a_machine_that_is_not_told_its_id_has_an_empty_one() {
        let told = "quiet plexspaces.link=virtio-serial:plexspaces.link";
        let name = "plexspaces.link".to_owned();
        let (vm_id, link) = (String::new(), Link::VirtioSerial { name });
        assert_eq!(Arguments::parse(told), Ok(Arguments { vm_id, link }));
    }

    #[test]
    fn a_command_line_without_a_link_is_refused_by_the_words_name() {
        for told in [
            "",
            "plexspaces.vm=vm-1",
            "plexspaces.link=",
            "xplexspaces.link=vsock:2:1",
        ] {
            let refused = Arguments::parse(told).unwrap_err();
            assert!(refused.contains("needs plexspaces.link=LINK"), "{refused}");
        }
    }

    #[test]
    fn a_link_that_is_not_known_is_refused_with_what_is() {
        for link in [
            "tcp:1.2.3.4:5",
            "virtio-serial:",
            "virtio-serial:a:b",
            "virtio-serial",
            "vsock:2",
            "vsock:2:x",
            "vsock:2:1:3",
            "vsock:-1:4294967296",
        ] {
            let refused = Arguments::parse(&format!("plexspaces.link={link}")).unwrap_err();
            assert!(refused.contains(link), "{refused}");
            assert!(
                refused.contains("virtio-serial:NAME nor vsock:CID:PORT"),
                "{refused}"
            );
        }
    }
}
