//! Secrets, which configuration names but never holds.

use std::fmt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::reader::Section;

/// A password or key that was loaded from a file or the environment. It cannot be printed.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a secret that came from somewhere else than configuration.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Loads `key = { file = "PATH" }` or `key = { env = "NAME" }`; a relative path starts at `base`.
#[expect(clippy::disallowed_methods, reason = "a secret may be given by the environment")]
pub fn load(parent: &Section<'_>, key: &'static str, base: &Path) -> Option<Secret> {
    let section = parent.section(key);
    if !section.is_given() {
        return None;
    }
    let (file, env) = (section.text("file"), section.text("env"));
    let secret = match (&file, &env) {
        (Some(file), None) => match std::fs::read_to_string(base.join(file)) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => {
                section.problem("file", format_args!("cannot read {file:?}: {error}"));
                None
            }
        },
        (None, Some(env)) => {
            let value = std::env::var(env).ok();
            if value.is_none() {
                section.problem("env", format_args!("the environment has no {env}"));
            }
            value
        }
        _ => {
            parent.problem(key, "give either file or env");
            None
        }
    };
    section.finish();
    if secret.as_deref() == Some("") {
        parent.problem(key, "the secret is empty");
    }
    secret.filter(|text| !text.is_empty()).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reader::Document;

    #[test]
    fn a_secret_comes_from_a_file_and_never_shows() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "hunter2\n").unwrap();
        let document = Document::parse(Path::new("t.toml"), "password = { file = \"password\" }");
        let secret = load(&document.root(), "password", folder.path()).unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert!(document.is_sound());
    }

    #[test]
    fn a_secret_that_is_not_there_is_a_problem_that_names_the_key() {
        let table = [
            ("password = { file = \"none\" }", "t.toml:1: password.file: cannot read \"none\""),
            (
                "password = { env = \"AFTERCALL_NO_SUCH_NAME\" }",
                "t.toml:1: password.env: the environment has no",
            ),
            ("password = { }", "t.toml:1: password: give either file or env"),
            ("password = \"hunter2\"", "t.toml:1: password: must be a table, not string"),
        ];
        for (source, start) in table {
            let document = Document::parse(Path::new("t.toml"), source);
            assert!(load(&document.root(), "password", Path::new("/nowhere")).is_none());
            let told = document.into_problems()[0].to_string();
            assert!(told.starts_with(start) && !told.contains("hunter2"), "{told}");
        }
    }
}
