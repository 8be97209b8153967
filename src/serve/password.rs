//! The password of the PostgreSQL door: configured, or generated once and kept in the data directory.
//!
//! There is no default password and no way to have none. Randomness is passed in.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use super::Error;

/// File in the data directory that holds a generated password.
pub const PASSWORD_FILE: &str = "postgres.password";

/// Bytes of a password file that are read: far more than any password, so that a wrong file cannot fill memory.
const PASSWORD_FILE_BYTES: u64 = 1024;

/// Text that is never shown: its debug form is `…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; for the one place that must have it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Where the password came from, so that a person can be told where to find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Password {
    /// From the configuration or the environment.
    Configured(Secret),
    /// From [`PASSWORD_FILE`] in the data directory.
    Stored(Secret),
}

impl Password {
    /// The `configured` password, else the one stored in `data_dir`, else a new one made of `random` and stored there
    /// with mode 0600.
    ///
    /// # Errors
    /// [`Error::EmptyPassword`]; [`Error::PasswordFile`] and [`Error::PasswordFileContent`] when the stored one cannot
    /// be read, is empty, or can be read by other users.
    pub fn load_or_create(data_dir: &Path, configured: Option<Secret>, random: [u8; 16]) -> Result<Self, Error> {
        if let Some(configured) = configured {
            return if configured.expose().is_empty() {
                Err(Error::EmptyPassword)
            } else {
                Ok(Self::Configured(configured))
            };
        }
        let path = data_dir.join(PASSWORD_FILE);
        let failed = |source| Error::PasswordFile { path: path.clone(), source };
        match create(&path, &hex::encode(random)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created.map_err(failed)?,
        }
        let file = fs::File::open(&path).map_err(failed)?;
        let problem = |problem| Error::PasswordFileContent { path: path.clone(), problem };
        if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(problem("can be read by other users: run `chmod 600` on it, and change the password"));
        }
        let mut text = String::new();
        file.take(PASSWORD_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
        match text.trim() {
            "" => Err(problem("is empty: delete it to have a new password generated")),
            text => Ok(Self::Stored(Secret::new(text))),
        }
    }

    /// The password.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        match self {
            Self::Configured(secret) | Self::Stored(secret) => secret,
        }
    }
}

/// Writes a new file that appears whole or not at all, and never replaces one.
fn create(path: &Path, text: &str) -> io::Result<()> {
    if path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let linked = writeln!(file, "{text}").and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    linked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_password_is_kept_private_and_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = Password::load_or_create(dir.path(), None, [7; 16]).unwrap();
        let again = Password::load_or_create(dir.path(), None, [8; 16]).unwrap();
        assert_eq!(first, again);
        assert_eq!(first.secret().expose(), "07".repeat(16));
        assert!(!format!("{first:?}").contains("07"));
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_password_that_others_can_read_or_that_is_empty_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PASSWORD_FILE);
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Password::load_or_create(dir.path(), None, [7; 16]), Err(Error::PasswordFileContent { .. })));
        fs::write(&path, "\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Password::load_or_create(dir.path(), None, [7; 16]), Err(Error::PasswordFileContent { .. })));
        let empty = Some(Secret::new(""));
        assert!(matches!(Password::load_or_create(dir.path(), empty, [7; 16]), Err(Error::EmptyPassword)));
    }

    #[test]
    fn a_configured_password_wins_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let configured = Password::load_or_create(dir.path(), Some(Secret::new("mine")), [7; 16]).unwrap();
        assert_eq!(configured, Password::Configured(Secret::new("mine")));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
