//! The keys of flow and route tokens: read from a file, made when it is absent.
//! Owns the file's form and mode. Never logs a key, never writes over one.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::fault;
use super::files;
use crate::sys::StartUpFault;

/// HMAC-SHA-256 takes no more into account.
pub const KEY_BYTES: usize = 32;

/// Two live keys, so that a change of key does not cut the flows and dialogs of the old one.
pub struct Secret {
    pub current: Zeroizing<[u8; KEY_BYTES]>,
    /// From the same file name with `.previous` at its end.
    pub previous: Option<Zeroizing<[u8; KEY_BYTES]>>,
}

impl Secret {
    /// Reads the keys; makes the current one when there is none.
    pub async fn load(path: &Path) -> Result<Secret, StartUpFault> {
        let current = match read_key(path).await? {
            Some(key) => key,
            None => make_key(path).await?,
        };
        let mut name = path.as_os_str().to_owned();
        name.push(".previous");
        let previous = read_key(&PathBuf::from(name)).await?;
        Ok(Secret { current, previous })
    }
}

/// `None` when the file does not exist.
async fn read_key(path: &Path) -> Result<Option<Zeroizing<[u8; KEY_BYTES]>>, StartUpFault> {
    // As text with blanks around it a key takes twice its bytes and a few.
    let bytes = match files::read(path, 4 * KEY_BYTES).await {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault::file("read the secret", path, &error)),
    };
    let mode = std::fs::metadata(path).map_or(0, |file| file.permissions().mode());
    if mode & 0o077 != 0 {
        return Err(fault::start_up(
            "the secret can be read by other users",
            path.display().to_string(),
            format!("its mode is {:o}", mode & 0o777),
            format!("run: chmod 600 {}; change it if others may have seen it", path.display()),
        ));
    }
    match key_of(&bytes) {
        Some(key) => Ok(Some(key)),
        None => Err(fault::start_up(
            "the secret is neither 32 bytes nor 64 hexadecimal digits",
            path.display().to_string(),
            "the file was cut short, or is another file",
            format!(
                "run: openssl rand -hex 32 > {}; flows of the old key are lost",
                path.display()
            ),
        )),
    }
}

fn key_of(bytes: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    if let Ok(key) = <[u8; KEY_BYTES]>::try_from(bytes) {
        return Some(Zeroizing::new(key));
    }
    let digits = bytes.trim_ascii();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(key)
}

async fn make_key(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, StartUpFault> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    random(key.as_mut_slice());
    let written = files::replace(path, key.to_vec(), files::PRIVATE).await;
    written.map_err(|error| fault::file("write the secret", path, &error))?;
    tracing::info!(path = %path.display(), "made a new secret for tokens");
    Ok(key)
}

/// Fills `bytes` from the system's generator.
pub fn random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the kernel's generator does not fail after start");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_read_from_then_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        tokio_uring::start(async {
            let made = Secret::load(&path).await.unwrap();
            let read = Secret::load(&path).await.unwrap();
            assert_eq!(*made.current, *read.current);
            assert!(read.previous.is_none());
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600);

            std::fs::rename(&path, directory.path().join("secret.previous")).unwrap();
            let turned = Secret::load(&path).await.unwrap();
            assert_ne!(*turned.current, *made.current);
            assert_eq!(*turned.previous.unwrap(), *made.current);
        });
    }

    #[test]
    fn a_secret_may_be_text_and_must_be_whole() {
        let digits = "00ff".repeat(16);
        for text in [digits.clone(), format!("{digits}\n"), digits.to_uppercase()] {
            let key = key_of(text.as_bytes()).unwrap();
            assert_eq!(key[..4], [0, 255, 0, 255]);
        }
        for bad in ["", "short", &digits[1..], &digits.replace('f', "g")] {
            assert!(key_of(bad.as_bytes()).is_none(), "{bad}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "x").unwrap();
        let others = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(&path, others).unwrap();
        let fault = tokio_uring::start(async { Secret::load(&path).await.err().unwrap() });
        assert_eq!(fault.cause, "its mode is 640");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let fault = tokio_uring::start(async { Secret::load(&path).await.err().unwrap() });
        assert_eq!(fault.to_string().lines().count(), 4);
        assert_eq!(std::fs::read(&path).unwrap(), b"x", "a bad secret is left as it was");
    }
}
