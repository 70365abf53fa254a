//! Frames and their bytes.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use thiserror::Error;

use super::proto::{FromAgent, FromNode, from_agent, from_node};
use super::{HEAD_LIMIT_BYTES, MAX_MESSAGE_LIMIT_BYTES};

/// Two little-endian u32: the lengths of head and body.
const PREFIX_BYTES: usize = 8;

/// The bytes received are not a frame; the connection cannot continue.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum LinkBroken {
    /// A head that is too long.
    #[error("a head of {0} bytes is over the limit of {HEAD_LIMIT_BYTES}")]
    LongHead(usize),
    /// A body that is too long.
    #[error("a body of {0} bytes is over the limit of {MAX_MESSAGE_LIMIT_BYTES}")]
    LongBody(usize),
    /// A head that does not match the schema.
    #[error("not a frame of a node: {0}")]
    NoFrame(String),
}

/// A frame from the node.
#[derive(Debug)]
pub(crate) struct Received {
    /// The frame.
    pub(crate) frame: from_node::Frame,
    /// Its body; empty if it was not kept.
    pub(crate) body: Bytes,
    /// The length of a body for which there was no memory: it is read and discarded.
    pub(crate) refused: Option<usize>,
}

/// A body up to this length is accepted without checking the memory.
const UNCHECKED_BYTES: usize = 256 * 1024;

/// Cuts a byte stream into frames.
///
/// Holds at most one frame's bytes beyond what was read last.
#[derive(Debug, Default)]
pub(crate) struct FrameBuffer {
    buffer: BytesMut,
    /// How much of a body that is discarded has yet to arrive.
    skipping: usize,
    /// There is memory for the current body.
    fits: bool,
}

impl FrameBuffer {
    /// The buffer to read into, with room for the missing part of the current frame.
    pub(crate) fn room(&mut self, at_least: usize) -> &mut BytesMut {
        let lacking = match self.lengths() {
            Some((head, body)) if self.skipping == 0 && self.fits => {
                (PREFIX_BYTES + head + body).saturating_sub(self.buffer.len())
            }
            _ => 0,
        };
        self.buffer.reserve(lacking.max(at_least));
        &mut self.buffer
    }

    /// Take the next complete frame, if there is one.
    ///
    /// `fits` returns whether there is memory for a long body. If not, the frame comes without it.
    pub(crate) fn next(
        &mut self,
        fits: impl Fn(usize) -> bool,
    ) -> Result<Option<Received>, LinkBroken> {
        let skipped = self.skipping.min(self.buffer.len());
        self.buffer.advance(skipped);
        self.skipping -= skipped;
        if self.skipping > 0 {
            return Ok(None);
        }
        let Some((head, body)) = self.lengths() else {
            return Ok(None);
        };
        if head > HEAD_LIMIT_BYTES {
            return Err(LinkBroken::LongHead(head));
        }
        if body > MAX_MESSAGE_LIMIT_BYTES {
            return Err(LinkBroken::LongBody(body));
        }
        if self.buffer.len() < PREFIX_BYTES + head {
            return Ok(None);
        }
        self.fits = self.fits || body <= UNCHECKED_BYTES || fits(body);
        if self.fits && self.buffer.len() < PREFIX_BYTES + head + body {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        let frame = decode(self.buffer.split_to(head).freeze())?;
        if !self.fits {
            self.skipping = body;
            return Ok(Some(Received {
                frame,
                body: Bytes::new(),
                refused: Some(body),
            }));
        }
        self.fits = false;
        let body = self.buffer.split_to(body).freeze();
        if self.buffer.is_empty() && body.len() > UNCHECKED_BYTES {
            // What is left would keep all the memory of the long body.
            self.buffer = BytesMut::new();
        }
        Ok(Some(Received {
            frame,
            body,
            refused: None,
        }))
    }

    fn lengths(&self) -> Option<(usize, usize)> {
        let prefix = self.buffer.first_chunk::<PREFIX_BYTES>()?;
        let [a, b, c, d, e, f, g, h] = *prefix;
        Some((
            u32::from_le_bytes([a, b, c, d]) as usize,
            u32::from_le_bytes([e, f, g, h]) as usize,
        ))
    }
}

fn decode(head: Bytes) -> Result<from_node::Frame, LinkBroken> {
    FromNode::decode(head)
        .map_err(|error| LinkBroken::NoFrame(error.to_string()))?
        .frame
        .ok_or_else(|| LinkBroken::NoFrame("it is empty".to_owned()))
}

/// Make the bytes of a frame up to its body, which follows on the stream.
///
/// A frame longer than 4 GiB cannot be made: heads and bodies are limited where they originate.
pub(crate) fn head_of(frame: from_agent::Frame, body_length: usize) -> Bytes {
    let message = FromAgent { frame: Some(frame) };
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    bytes.extend_from_slice(&(body_length as u32).to_le_bytes());
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use serde_json::Value;

    use super::*;

    /// The files `tests/vectors/link/*` whose names begin so, which Python's end reads too.
    fn vectors(prefix: &str) -> Vec<(PathBuf, Value, Vec<u8>)> {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/link");
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).expect("the vectors") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            if name.starts_with(prefix) && path.extension().is_some_and(|end| end == "json") {
                let said = fs::read_to_string(&path).expect("a description");
                let bytes = fs::read(path.with_extension("bin")).expect("bytes");
                found.push((path, serde_json::from_str(&said).expect("JSON"), bytes));
            }
        }
        assert!(found.len() > 5, "there are too few vectors {prefix}*");
        found
    }

    fn read(chunks: &[&[u8]]) -> Result<Vec<Received>, LinkBroken> {
        let mut buffer = FrameBuffer::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            buffer.room(1).extend_from_slice(chunk);
            while let Some(frame) = buffer.next(|_| true)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn name(frame: &from_node::Frame) -> String {
        let debugged = format!("{frame:?}");
        debugged[..debugged.find('(').expect("a variant")].to_owned()
    }

    #[test]
    fn frames_of_a_node_are_what_the_vectors_say() {
        for (path, said, bytes) in vectors("node-") {
            let read = read(&[&bytes]);
            if said["broken"] == true {
                assert!(read.is_err(), "{} was taken", path.display());
                continue;
            }
            let frames = read.expect("frames");
            let expected = said["frames"].as_array().expect("frames");
            assert_eq!(frames.len(), expected.len(), "{}", path.display());
            for (frame, expected) in frames.iter().zip(expected) {
                assert_eq!(name(&frame.frame), expected["frame"], "{}", path.display());
                let body = expected["body"].as_u64().unwrap_or(0) as usize;
                assert_eq!(frame.body.len(), body, "{}", path.display());
            }
        }
    }

    #[test]
    fn frames_of_an_agent_are_the_bytes_of_the_vectors() {
        for (path, said, bytes) in vectors("agent-") {
            if said["broken"] == true {
                continue;
            }
            let (mut rest, mut written) = (&bytes[..], Vec::new());
            while !rest.is_empty() {
                let head = u32::from_le_bytes(rest[..4].try_into().expect("four")) as usize;
                let body = u32::from_le_bytes(rest[4..8].try_into().expect("four")) as usize;
                let message = FromAgent::decode(&rest[8..8 + head]).expect("a frame");
                written.extend(head_of(message.frame.expect("a frame"), body));
                written.extend(&rest[8 + head..8 + head + body]);
                rest = &rest[8 + head + body..];
            }
            assert_eq!(written, bytes, "{}", path.display());
        }
    }

    #[test]
    fn frames_come_whole_however_the_stream_is_cut() {
        let bytes: Vec<u8> = vectors("node-")
            .into_iter()
            .filter(|(_, said, _)| said["broken"] != true)
            .flat_map(|(_, _, bytes)| bytes)
            .collect();
        let whole = read(&[&bytes]).expect("frames").len();
        for size in [1, 3, 7, 8, 9, 100] {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(read(&chunks).expect("frames").len(), whole, "in {size}s");
        }
    }

    #[test]
    fn bytes_of_anybody_are_frames_or_break_the_link() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for (_, _, bytes) in vectors("node-") {
            for _ in 0..2000 {
                let mut mutated = bytes.clone();
                for _ in 0..3 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let at = (random as usize >> 8) % mutated.len().max(1);
                    if let Some(byte) = mutated.get_mut(at) {
                        *byte = random as u8;
                    }
                }
                let _ = read(&[&mutated]);
            }
        }
    }

    #[test]
    fn a_body_without_memory_is_thrown_away_and_the_next_frame_is_read() {
        let head = FromNode {
            frame: Some(from_node::Frame::Invoke(crate::link::proto::Invoke {
                id: 7,
                ..Default::default()
            })),
        }
        .encode_to_vec();
        let body = vec![1; UNCHECKED_BYTES + 1];
        let mut stream = Vec::new();
        for body in [&body[..], b"small"] {
            stream.extend((head.len() as u32).to_le_bytes());
            stream.extend((body.len() as u32).to_le_bytes());
            stream.extend(&head);
            stream.extend(body);
        }
        let mut buffer = FrameBuffer::default();
        let mut frames = Vec::new();
        for chunk in stream.chunks(10_000) {
            buffer.room(1).extend_from_slice(chunk);
            while let Some(frame) = buffer.next(|_| false).expect("frames") {
                frames.push(frame);
            }
        }
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].refused, Some(body.len()));
        assert!(frames[0].body.is_empty());
        assert_eq!(frames[1].refused, None);
        assert_eq!(&frames[1].body[..], b"small");
    }
}
