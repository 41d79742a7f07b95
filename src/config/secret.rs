//! Masking of values that may hold a secret.
//!
//! | value | shown |
//! | --- | --- |
//! | a URL | without its password, without a user that has no password, without parameters |
//! | the path of a file with secrets | the path, if it looks like one; it may be the secret itself |
//! | a command | its words, as a shell would read them, without those that look like a secret |
//!
//! A value that can't be read is never shown, for any setting.

use std::{
    fmt, io,
    path::{Component, Path, PathBuf},
};

use url::Url;

use super::value::{Form, Value};

/// The text that is shown instead of a secret.
pub const MASK: &str = "***";

/// A file that holds secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretFile(pub PathBuf);

// === impl SecretFile ===

impl SecretFile {
    /// Reads the file. The error names it, unless its path may be the secret itself.
    pub fn read(&self) -> Result<String, String> {
        std::fs::read_to_string(&self.0).map_err(|error| cannot_read(&self.0, &error))
    }
}

impl Value for SecretFile {
    const FORM: Form = Form::Text;

    fn from_text(text: &str) -> Result<Self, String> {
        PathBuf::from_text(text).map(Self)
    }

    fn shown(&self) -> String {
        shown_path(&self.0)
    }
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

/// Describes why a file can't be read.
pub fn cannot_read(path: &Path, error: &io::Error) -> String {
    match is_a_path(path) {
        true => format!("cannot read {}: {error}", path.display()),
        false => format!(
            "cannot read it: {error}. The setting takes the path of a file and not what is in it (the value is not shown, \
             because it may be the secret itself)"
        ),
    }
}

/// Returns a path for messages, masked if it may be the secret itself.
pub fn shown_path(path: &Path) -> String {
    match is_a_path(path) {
        true => path.display().to_string(),
        false => MASK.to_owned(),
    }
}

/// Whether a file or its folder exists, or at least the first folder of an absolute path.
fn is_a_path(path: &Path) -> bool {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    if path.exists() || parent.is_some_and(|parent| parent != Path::new("/") && parent.exists()) {
        return true;
    }
    let mut parts = path.components();
    let first = (parts.next(), parts.next(), parts.next());
    match first {
        (Some(Component::RootDir), Some(Component::Normal(first)), Some(_)) => {
            Path::new("/").join(first).is_dir()
        }
        _ => false,
    }
}

/// Returns a URL with everything masked that may be a secret.
pub fn masked_url(url: &Url) -> String {
    let mut url = url.clone();
    // These calls can't fail for a URL with a host.
    if url.password().is_some() {
        let _ = url.set_password(Some(MASK));
    } else if !url.username().is_empty() {
        let _ = url.set_username(MASK);
    }
    if let Some(query) = url.query() {
        let masked: Vec<String> = query
            .split('&')
            .map(|parameter| match parameter.split_once('=') {
                Some((name, _)) => format!("{name}={MASK}"),
                None => MASK.to_owned(),
            })
            .collect();
        url.set_query(Some(&masked.join("&")));
    }
    if url.fragment().is_some() {
        url.set_fragment(Some(MASK));
    }
    url.into()
}

/// Returns a command as a shell reads it, with everything masked that looks like a secret.
pub fn masked_command(words: &[String]) -> String {
    let mut masked = Vec::with_capacity(words.len());
    let mut secret_next = false;
    for word in words {
        let hidden = secret_next && !word.starts_with('-');
        secret_next = word.starts_with('-') && !word.contains('=') && is_secretive(word);
        masked.push(match hidden {
            true => MASK.to_owned(),
            false => masked_word(word),
        });
    }
    shell_words::join(masked)
}

/// Words by which flags and variables for secrets are recognized.
const SECRETIVE: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api-key",
    "api_key",
    "credential",
];

fn is_secretive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETIVE.iter().any(|word| name.contains(word))
        || matches!(&*name, "-u" | "--user" | "--key" | "--auth" | "--bearer")
}

/// Masks one word, which may be a whole script.
fn masked_word(word: &str) -> String {
    let mut masked = String::new();
    let mut secret_next = false;
    for piece in word.split_inclusive(|c: char| c.is_whitespace() || "'\"`;,".contains(c)) {
        let end = piece.trim_end_matches(|c: char| c.is_whitespace() || "'\"`;,".contains(c));
        let rest = &piece[end.len()..];
        if end.is_empty() {
            masked.push_str(rest);
            continue;
        }
        if secret_next && !end.starts_with('-') {
            masked.push_str(MASK);
            // A scheme such as Bearer comes before the secret itself.
            secret_next = is_scheme(end);
        } else {
            masked.push_str(&masked_piece(end));
            secret_next = asks_for_a_secret(end);
        }
        masked.push_str(rest);
    }
    masked
}

/// Whether a secret follows this piece, as after `--token`, `-u`, `Authorization:` or `Bearer`.
fn asks_for_a_secret(piece: &str) -> bool {
    let flag = piece.starts_with('-') && !piece.contains('=') && is_secretive(piece);
    let header = piece
        .strip_suffix(':')
        .is_some_and(|name| name.eq_ignore_ascii_case("authorization") || is_secretive(name));
    flag || header || is_scheme(piece)
}

fn is_scheme(piece: &str) -> bool {
    piece.eq_ignore_ascii_case("bearer") || piece.eq_ignore_ascii_case("basic")
}

/// Masks `TOKEN=…`, `--password=…`, `Token:…` and `scheme://user:…@host/path?…`.
fn masked_piece(piece: &str) -> String {
    if piece.contains("://") {
        let start = piece.find(|c: char| c.is_ascii_alphanumeric()).unwrap_or(0);
        // A name may come before the URL, as in DATABASE=postgres://….
        let start = match piece[..piece.find("://").unwrap_or(0)].rfind('=') {
            Some(equals) => equals + 1,
            None => start,
        };
        let (front, url) = piece.split_at(start);
        return match Url::parse(url) {
            Ok(url) => format!("{front}{}", masked_url(&url)),
            Err(_) => format!("{front}{MASK}"),
        };
    }
    for separator in ['=', ':'] {
        if let Some((name, value)) = piece.split_once(separator)
            && !value.is_empty()
            && is_secretive(name)
        {
            return format!("{name}{separator}{MASK}");
        }
    }
    piece.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> String {
        masked_command(&shell_words::split(line).unwrap())
    }

    #[test]
    fn a_command_is_shown_so_that_it_can_be_pasted() {
        for line in [
            "python3 resize.py",
            "sh -c 'echo \"$PLACE\"; exec cat'",
            "jq '.a | select(.b == 1)'",
            "curl --max-time 3 http://resize/jobs",
        ] {
            assert_eq!(
                shell_words::split(&command(line)).unwrap(),
                shell_words::split(line).unwrap(),
                "{line}"
            );
        }
    }

    #[test]
    fn what_looks_like_a_secret_in_a_command_is_not_shown() {
        for line in [
            "worker --token S3cret",
            "worker --token=S3cret",
            "worker --api-key S3cret",
            "env API_TOKEN=S3cret worker",
            "sh -c 'DB_PASSWORD=S3cret exec worker'",
            "sh -c 'curl -H \"Authorization: Bearer S3cret\" http://a/'",
            "curl -H 'Authorization: Basic S3cret' http://a/",
            "curl -H X-Auth-Token:S3cret http://a/",
            "curl -u me:S3cret http://a/",
            "curl http://me:S3cret@a/",
            "curl http://S3cret@a/",
            "curl 'http://a/?key=S3cret'",
            "worker postgres://me:S3cret@db/jobs",
            "worker --database=postgres://me:S3cret@db/jobs",
            "worker --database=postgres://me:S3cret/pw@db/jobs",
        ] {
            let said = command(line);
            assert!(!said.contains("S3cret"), "{line}: {said}");
        }
    }

    #[test]
    fn a_secret_that_was_given_instead_of_its_file_is_not_shown() {
        for text in ["S3cret", "S3cret/pw", "/S3cret", "/S3cret/pw"] {
            let file = SecretFile::from_text(text).unwrap();
            let said = format!("{} {file:?} {}", file.shown(), file.read().unwrap_err());
            assert!(!said.contains("S3cret"), "{said}");
            assert!(said.contains("takes the path of a file"), "{said}");
        }
        let file = SecretFile::from_text("/etc/of-nobody/tokens").unwrap();
        assert!(file.read().unwrap_err().contains("/etc/of-nobody/tokens"));
    }
}
