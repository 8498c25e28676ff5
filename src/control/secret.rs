//! The keys of flow and route tokens: read from a file, made when it is absent.
//! Owns the file's form and mode. Never logs a key, never writes over one.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::fault::StartFault;
use super::files;

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
    pub async fn load(path: &Path) -> Result<Secret, StartFault> {
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
async fn read_key(path: &Path) -> Result<Option<Zeroizing<[u8; KEY_BYTES]>>, StartFault> {
    // As text with blanks around it a key takes twice its bytes and a few.
    let bytes = match files::read(path, 4 * KEY_BYTES).await {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StartFault::file("read the secret", path, &error)),
    };
    if std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "others may read the secret; run: chmod 600 on it");
    }
    match key_of(&bytes) {
        Some(key) => Ok(Some(key)),
        None => Err(StartFault::new(
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

async fn make_key(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, StartFault> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    random(key.as_mut_slice());
    let written = files::replace(path, key.to_vec(), files::PRIVATE).await;
    written.map_err(|error| StartFault::file("write the secret", path, &error))?;
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
        let fault = tokio_uring::start(async { Secret::load(&path).await.err().unwrap() });
        assert_eq!(fault.to_string().lines().count(), 4);
        assert_eq!(std::fs::read(&path).unwrap(), b"x", "a bad secret is left as it was");
    }
}
