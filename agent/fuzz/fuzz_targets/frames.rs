//! Whatever arrives on the link, in whatever pieces, is frames or breaks it, and is not held
//! without limit.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod link;

fuzz_target!(|bytes: &[u8]| {
    let [first, rest @ ..] = bytes else { return };
    let mut buffer = link::frames::FrameBuffer::default();
    for piece in rest.chunks(usize::from(*first) + 1) {
        buffer.room(1).extend_from_slice(piece);
        loop {
            match buffer.next(|length| length < 1 << 20) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
