//! Content codings of answers. None is asked for, but the common ones are undone nonetheless.
//!
//! A result is kept as bytes, with no room for the name of their coding. A target that compresses although `identity`
//! was asked for has done its work, so its answer counts; gzip and deflate are undone, and a result in another
//! coding is kept as it came.

use std::{
    io::{self, Read},
    time::Duration,
};

use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

use super::Target;
use lameduck_lifecycle::LogThrottle;

/// Minimum interval between two warnings that results are kept in a coding.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Maximum length of a coding's name that is shown.
const NAME_LIMIT: usize = 60;

/// The content codings of an answer's body, in the order in which they were applied.
#[derive(Debug)]
pub(super) struct Coding(Vec<String>);

// === impl Coding ===

impl Coding {
    /// Reads the codings of an answer; `identity` does not count. Returns `None` for a body without any.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let names = names.map(|name| String::from_utf8_lossy(name.trim_ascii()).to_lowercase());
        let coded: Vec<String> = names
            .filter(|name| !name.is_empty() && name != "identity")
            .collect();
        (!coded.is_empty()).then_some(Self(coded))
    }

    /// Number of coded bytes to read for `limit` bytes of content: incompressible content is longer when coded.
    pub(super) fn longest(limit: usize) -> usize {
        limit + limit / 8 + 1024
    }

    /// Undoes the coding of a body, or of its first bytes, and returns at most `limit` bytes. `None` for a coding that
    /// is not known here, and for bytes that are not in it.
    pub(super) fn undone(&self, body: &[u8], limit: usize) -> Option<Bytes> {
        // A body without bytes is empty in any coding.
        if body.is_empty() {
            return Some(Bytes::new());
        }
        match self.0.as_slice() {
            // RFC 9110, section 8.4.1.3: the two mean the same.
            [one] if one == "gzip" || one == "x-gzip" => read(MultiGzDecoder::new(body), limit),
            [one] if one == "deflate" => read(ZlibDecoder::new(body), limit),
            _ => None,
        }
    }

    /// Warns that a result is kept in its coding; only now and then, since it happens with every job.
    pub(super) fn warn(&self, target: &Target) {
        static TOLD: LogThrottle = LogThrottle::every(TELL_AGAIN);
        if let Some(left_out) = TOLD.admit() {
            tracing::warn!(
                %target,
                coding = self.name(),
                left_out,
                "the target answers in a content coding that can't be undone, although 'identity' was asked for: its \
                 results are kept byte for byte as they come; make the target heed Accept-Encoding"
            );
        }
    }

    /// The names of the codings, for people.
    pub(super) fn name(&self) -> String {
        self.0.join(", ").chars().take(NAME_LIMIT).collect()
    }
}

/// Reads at most `limit` bytes. A body that was cut off ends early, of which the caller is aware.
fn read(decoder: impl Read, limit: usize) -> Option<Bytes> {
    let mut bytes = Vec::new();
    let end = decoder
        .take(u64::try_from(limit).unwrap_or(u64::MAX))
        .read_to_end(&mut bytes);
    match end {
        Ok(_) => Some(bytes.into()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !bytes.is_empty() => {
            Some(bytes.into())
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };
    use reqwest::header::HeaderValue;

    use super::*;

    fn coding(values: &[&'static str]) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        Coding::of(&headers)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn identity_is_no_coding() {
        for values in [&[][..], &["identity"], &["Identity, ", ""]] {
            assert!(coding(values).is_none(), "{values:?}");
        }
        assert_eq!(
            coding(&["identity, GZIP", "br"]).unwrap().name(),
            "gzip, br"
        );
    }

    #[test]
    fn gzip_and_deflate_are_undone() {
        let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
        deflate.write_all(b"hello").unwrap();
        let bodies = [
            ("gzip", gzip(b"hello")),
            ("X-Gzip", gzip(b"hello")),
            ("deflate", deflate.finish().unwrap()),
        ];
        for (name, body) in bodies {
            let undone = coding(&[name]).unwrap().undone(&body, 100);
            assert_eq!(undone.as_deref(), Some(&b"hello"[..]), "{name}");
        }
    }

    #[test]
    fn no_more_is_undone_than_is_kept() {
        let bomb = gzip(&vec![0; 1 << 20]);

        let undone = coding(&["gzip"]).unwrap().undone(&bomb, 1000);

        assert_eq!(undone.unwrap().len(), 1000);
    }

    #[test]
    fn what_fills_the_limit_uncoded_fills_it_coded() {
        let mut random = fastrand::Rng::with_seed(1);
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(100_000)
            .collect();
        let body = gzip(&bytes);
        let limit = 64 << 10;

        let read = &body[..Coding::longest(limit)];

        let undone = coding(&["gzip"]).unwrap().undone(read, limit);
        assert_eq!(undone.unwrap(), bytes[..limit]);
    }

    #[test]
    fn what_can_not_be_undone_is_told() {
        for (name, body) in [
            ("br", &b"hello"[..]),
            ("gzip, gzip", b"x"),
            ("gzip", b"hello"),
        ] {
            assert!(
                coding(&[name]).unwrap().undone(body, 100).is_none(),
                "{name}"
            );
        }
        assert_eq!(
            coding(&["zstd"]).unwrap().undone(b"", 100),
            Some(Bytes::new())
        );
    }
}
