//! The messages of gRPC in the body of a request, told apart as the body comes.

/// Where messages begin and end in the body of a request (gRPC over HTTP/2,
/// Length-Prefixed-Message).
#[derive(Debug)]
pub(super) struct Messages {
    /// Bytes of the message that came, with its prefix.
    come: usize,
    /// Bytes of it that are to come, as far as its prefix says it.
    rest: usize,
    largest: usize,
    /// It is compressed.
    is_compressed: bool,
    /// What the largest compressed message may have in it at most, and how much the reader takes
    /// out of one.
    unpacked: usize,
    unpacked_max: usize,
}

impl Messages {
    /// Tells messages apart whose reader takes so many bytes out of a compressed one, and no more.
    pub(super) const fn new(unpacked_max: usize) -> Self {
        Self {
            come: 0,
            rest: 0,
            largest: 0,
            is_compressed: false,
            unpacked: 0,
            unpacked_max,
        }
    }

    /// Follows what comes, and tells whether a message came to its end.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        while let Some((first, behind)) = bytes.split_first() {
            if self.come < PREFIX_LEN {
                // A flag, then the length.
                self.rest = match self.come {
                    0 => {
                        self.is_compressed = *first != 0;
                        0
                    }
                    _ => (self.rest << 8) | usize::from(*first),
                };
                self.come += 1;
                bytes = behind;
            } else {
                let part = self.rest.min(bytes.len());
                self.rest -= part;
                self.come += part;
                bytes = bytes.split_at(part).1;
            }
            self.largest = self.largest.max(self.come);
            if self.is_compressed {
                let unpacked = self.come.saturating_mul(INFLATION_MAX);
                self.unpacked = self.unpacked.max(unpacked.min(self.unpacked_max));
            }
            if self.come >= PREFIX_LEN && self.rest == 0 {
                self.come = 0;
                ended = true;
            }
        }
        ended
    }

    pub(super) fn is_within(&self) -> bool {
        self.come > 0
    }

    /// Returns the bytes that the reader holds: it makes room for the largest message and does not
    /// give it back. The room that every reader has from the start does not count. Of a compressed
    /// message it also holds what is in it, which counts as much as it may be: how much it is shows
    /// only when it is there.
    pub(super) fn held(&self) -> usize {
        let largest = match self.largest {
            0..=READER_MIN => 0,
            largest => largest,
        };
        largest + self.unpacked
    }
}

/// How many bytes stand before each message.
pub(super) const PREFIX_LEN: usize = 5;
/// How many bytes one byte of deflate becomes at most (zlib's Technical Details, Maximum
/// Compression Factor).
const INFLATION_MAX: usize = 1032;
/// What the decoder of tonic has room for before it has read anything.
const READER_MIN: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let whole = b"\0\0\0\0\x03abc\0\0\0\0\0\x01\0\0\0\x01d";
        for cut in 1..whole.len() {
            let mut messages = Messages::new(4096);
            let ended = whole.chunks(cut).filter(|part| messages.pass(part)).count();
            assert!(ended > 0 && !messages.is_within(), "{cut}: {messages:?}");
            assert_eq!(messages.largest, 8, "{cut}");
            messages.pass(b"\0");
            assert!(messages.is_within(), "{cut}");
        }
    }

    #[test]
    fn a_reader_holds_as_much_as_its_largest_message() {
        let mut messages = Messages::new(4096);
        messages.pass(&[0, 0, 0, 0x27, 0x10]);
        messages.pass(&[7; 5000]);
        assert_eq!(messages.held(), 0);
        messages.pass(&[7; 4999]);
        assert_eq!((messages.held(), messages.is_within()), (10_004, true));
        messages.pass(&[7, 0, 0, 0, 0, 1, 7]);
        assert_eq!((messages.held(), messages.is_within()), (10_005, false));
    }

    #[test]
    fn a_reader_holds_what_may_be_in_a_compressed_message() {
        let mut messages = Messages::new(1_000_000);
        messages.pass(&[0, 0, 0, 0, 100]);
        messages.pass(&[7; 100]);
        assert_eq!(messages.held(), 0);
        messages.pass(&[1, 0, 0, 0, 100]);
        messages.pass(&[7; 100]);
        assert_eq!(messages.held(), 105 * 1032);
        // And no more than the reader takes.
        messages.pass(&[1, 0, 0, 0x27, 0x10]);
        messages.pass(&[7; 10_000]);
        assert_eq!(messages.held(), 10_005 + 1_000_000);
    }
}
