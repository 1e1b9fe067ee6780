//! What a registry answers to those who do not say who they are: WWW-Authenticate (RFC 9110, section 11.6.1), with the
//! parameters of the distribution project's token specification.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::http1::is_token_byte;

/// Bytes of one field that are read, at most; nothing of a longer one is.
pub const CHALLENGE_BYTES_MAX: usize = 4096;
/// Parameters of one challenge, at most.
const PARAMETERS_MAX: usize = 16;

/// How to say who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// By name and password.
    Basic,
    /// By a token that the server at `realm` gives.
    Bearer {
        /// Its URL, not checked.
        realm: String,
        /// What the registry calls itself there.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
}

/// The challenges of one field's value, in order; of others than Basic and Bearer nothing is said. Empty when the value
/// has more than one reading: a realm that is guessed is how passwords leave.
#[must_use]
pub fn parse_challenges(value: &str) -> Vec<Challenge> {
    if value.len() > CHALLENGE_BYTES_MAX {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut reader = Reader { rest: value };
    loop {
        reader.skip_commas();
        if reader.rest.is_empty() {
            return found;
        }
        match reader.challenge() {
            Some(Some(challenge)) => found.push(challenge),
            Some(None) => {}
            None => return Vec::new(),
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

type Parameter = (String, String);

impl<'a> Reader<'a> {
    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn skip_commas(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', ',']);
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.rest.bytes().position(|byte| !is_token_byte(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// One challenge: `None` when it is malformed, `Some(None)` when its scheme is not ours.
    fn challenge(&mut self) -> Option<Option<Challenge>> {
        let scheme = self.token()?;
        let is_followed = self.rest.starts_with([' ', '\t']);
        self.skip_spaces();
        if !is_followed && !self.rest.is_empty() && !self.rest.starts_with(',') {
            return None;
        }
        let parameters = self.parameters()?;
        let parameter = |name: &str| {
            let mut values =
                parameters.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
            let first = values.next();
            // Twice: which one counts is anybody's guess.
            if values.next().is_some() { None } else { Some(first.cloned()) }
        };
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Some(Challenge::Basic));
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            let (realm, service, scope) = (parameter("realm")??, parameter("service")?, parameter("scope")?);
            return Some(Some(Challenge::Bearer { realm, service, scope }));
        }
        Some(None)
    }

    /// `name=value` parted by commas, up to where the next challenge begins.
    fn parameters(&mut self) -> Option<Vec<Parameter>> {
        let mut parameters = Vec::new();
        loop {
            let start = self.rest;
            self.skip_commas();
            if self.rest.is_empty() {
                return Some(parameters);
            }
            let name = self.token()?;
            self.skip_spaces();
            let Some(rest) = self.rest.strip_prefix('=').filter(|rest| !rest.starts_with('=')) else {
                if parameters.is_empty() && !start.starts_with(',') {
                    // Neither the first parameter nor another challenge: a token68, of a scheme that is not ours.
                    return self.skip_token68().then_some(parameters);
                }
                // The name was the next challenge's scheme.
                self.rest = start;
                return Some(parameters);
            };
            self.rest = rest;
            self.skip_spaces();
            let value = if self.rest.starts_with('"') { self.quoted()? } else { self.token()?.to_owned() };
            self.skip_spaces();
            let is_end = self.rest.is_empty() || self.rest.starts_with(',');
            if !is_end || parameters.len() == PARAMETERS_MAX {
                return None;
            }
            parameters.push((name.to_owned(), value));
        }
    }

    fn skip_token68(&mut self) -> bool {
        let is_token68 = |character: char| character.is_ascii_alphanumeric() || "-._~+/=".contains(character);
        self.rest = self.rest.trim_start_matches(is_token68);
        self.skip_spaces();
        self.rest.is_empty() || self.rest.starts_with(',')
    }

    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((index, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[index + 1..];
                    return Some(value);
                }
                '\\' => value.push(characters.next()?.1),
                control if control.is_control() && control != '\t' => return None,
                other => value.push(other),
            }
        }
        None
    }
}
