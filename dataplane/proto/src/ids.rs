//! Identities. Each is its own type, so that a host can never be passed where a task is meant.

use core::fmt;
use core::str::FromStr;

/// Text that is not the hexadecimal form of an id: the wrong length, or a character outside `[0-9a-f]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected 64 lower-case hexadecimal digits")
    }
}

impl core::error::Error for ParseIdError {}

/// Writes `bytes` as lower-case hexadecimal.
pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Parses two lower-case hexadecimal digits a byte; upper case is refused, so that an id has one spelling.
pub(crate) fn parse_hex<const BYTES: usize>(text: &str) -> Result<[u8; BYTES], ParseIdError> {
    let digits = text.as_bytes();
    if digits.len() != 2 * BYTES {
        return Err(ParseIdError);
    }
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ParseIdError),
    };
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(bytes)
}

macro_rules! id_of_32_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The first six bytes in hexadecimal: enough for a person, never enough for a decision.
            #[must_use]
            pub fn short(&self) -> impl fmt::Display + '_ {
                struct Short<'a>(&'a [u8]);
                impl fmt::Display for Short<'_> {
                    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write_hex(f, self.0)
                    }
                }
                Short(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }
    };
}

id_of_32_bytes! {
    /// Names immutable content to distribute: the hash of what identifies it (see `resolve`), not of its bytes.
    TaskId
}

id_of_32_bytes! {
    /// Names a host: BLAKE3 of its Ed25519 public key, so that nobody can take another host's name.
    HostId
}

/// A piece of a task, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(pub u32);

/// A block of a piece, counted from 0 within its piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u32);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn id_has_one_spelling() {
        let id = TaskId([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short().to_string(), "abababababab");
        let upper = id.to_string().to_uppercase();
        for text in ["", "ab", upper.as_str(), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(text.parse::<TaskId>(), Err(ParseIdError), "{text}");
        }
    }
}
