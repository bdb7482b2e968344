//! SSH keys of users: parsed before they are stored, so that a guest never gets a broken one.

use base64::Engine as _;
use berth_controller_core::listing::{Condition, Direction, Field, Ids, Is, Table, markers};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{params, row};
use md5::{Digest as _, Md5};

row! {
    /// A user's key.
    #[derive(Clone, Debug)]
    pub struct Keypair {
        /// Its name, unique for the user.
        pub name: String,
        /// Whose.
        pub user_id: String,
        /// Nova's integer id.
        pub serial: i64,
        /// `ssh`.
        pub key_type: String,
        /// OpenSSH form.
        pub public_key: String,
        /// MD5 of the key's blob, in hexadecimal with colons.
        pub fingerprint: String,
        /// Unix milliseconds.
        pub created_at: i64,
    }
}

/// Key types that OpenSSH knows. The blob must name the same one.
const TYPES: &[&str] = &[
    "ssh-rsa",
    "ssh-dss",
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The fingerprint of an OpenSSH public key (`type base64 [comment]`), MD5 as Nova shows it.
///
/// # Errors
/// What is wrong with it, in words for the user.
pub fn fingerprint(public_key: &str) -> Result<String, String> {
    let mut parts = public_key.split_whitespace();
    let (Some(kind), Some(data)) = (parts.next(), parts.next()) else {
        return Err("it is not of the form 'type base64 comment'".into());
    };
    if !TYPES.contains(&kind) {
        return Err(format!(
            "its type is not known here; {} are",
            TYPES.join(", ")
        ));
    }
    let blob = base64::engine::general_purpose::STANDARD
        .decode(data)
        .map_err(|_| "its second part is not base64".to_owned())?;
    // RFC 4253, 6.6: the blob begins with its own type, as a length and that many bytes.
    let name = blob
        .first_chunk::<4>()
        .and_then(|len| usize::try_from(u32::from_be_bytes(*len)).ok())
        .and_then(|len| blob.get(4..4_usize.checked_add(len)?));
    if name != Some(kind.as_bytes()) {
        return Err("its data is not that of a key of its type".into());
    }
    let digest = Md5::digest(&blob);
    let hex: Vec<String> = digest.iter().map(|b| format!("{b:02x}")).collect();
    Ok(hex.join(":"))
}

/// One key of a user.
///
/// # Errors
/// [`StoreError`]
pub async fn get(tx: &mut Tx, user: &str, name: &str) -> Result<Option<Keypair>, StoreError> {
    tx.query_opt(
        "SELECT * FROM keypairs WHERE user_id = $1 AND name = $2",
        params![user, name],
    )
    .await
}

/// All keys of a user, by name.
///
/// # Errors
/// [`StoreError`]
pub async fn list(tx: &mut Tx, user: &str) -> Result<Vec<Keypair>, StoreError> {
    tx.query(
        "SELECT * FROM keypairs WHERE user_id = $1 ORDER BY name",
        params![user],
    )
    .await
}

/// A user's, as they are listed: their ids are their names.
pub(crate) const TABLE: Table = Table {
    kind: "keypair",
    from: "keypairs k",
    id: "k.name",
    owner: "k.user_id",
    fields: &[Field::new("name", "k.name", Is::Text)],
    order: &[("name", Direction::Ascending)],
};

/// Those of a page of a user's, in its order.
///
/// # Errors
/// [`StoreError`]
pub(crate) async fn of_page(
    tx: &mut Tx,
    user: &str,
    page: &Ids,
) -> Result<Vec<Keypair>, StoreError> {
    let mut which = Condition::owned("user_id", Some(user));
    which.and(page.among("name"));
    let (sql, values) = which.statement("SELECT * FROM keypairs", "");
    let found = tx.query(&sql, &values).await?;
    Ok(page.in_order(found, |key: &Keypair| key.name.clone()))
}

/// Stores a key; `serial` is ignored and given.
///
/// # Errors
/// [`StoreError::Conflict`] if the user has one of that name.
pub async fn insert(tx: &mut Tx, key: &Keypair) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO keypairs (user_id, name, serial, key_type, public_key, fingerprint, created_at) \
         SELECT $1, $2, (SELECT COALESCE(MAX(serial), 0) + 1 FROM keypairs), $3, $4, $5, $6",
        params![
            &key.user_id,
            &key.name,
            &key.key_type,
            &key.public_key,
            &key.fingerprint,
            key.created_at
        ],
    )
    .await?;
    Ok(())
}

/// Forgets a key. `false`: there was none.
///
/// # Errors
/// [`StoreError`]
pub async fn delete(tx: &mut Tx, user: &str, name: &str) -> Result<bool, StoreError> {
    let which = Condition::new("k.user_id = ? AND k.name = ?", [user.into(), name.into()]);
    markers::keep(tx, &TABLE, &which).await?;
    let gone = tx
        .execute(
            "DELETE FROM keypairs WHERE user_id = $1 AND name = $2",
            params![user, name],
        )
        .await?;
    Ok(gone == 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    // `ssh-keygen -l -E md5 -f` gave the fingerprint.
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMiXIKc9KTWHy2bJ/q6f7wvCOQ6oiJ2U1GNjxIiIphq2 someone@somewhere";

    #[test]
    fn a_fingerprint_is_what_ssh_keygen_says() {
        assert_eq!(
            fingerprint(KEY).unwrap(),
            "cd:7b:2c:19:f5:9a:5b:3b:9e:2f:8d:ef:b7:e8:64:73"
        );
    }

    #[test]
    fn a_broken_key_is_refused_with_its_reason() {
        for (key, reason) in [
            ("", "type base64"),
            ("ssh-ed25519", "type base64"),
            ("ssh-foo AAAA", "type is not known"),
            ("ssh-rsa %%%%", "not base64"),
            ("ssh-rsa AAAA", "not that of a key"),
            ("ssh-rsa /////w==", "not that of a key"),
        ] {
            let error = fingerprint(key).unwrap_err();
            assert!(error.contains(reason), "{key}: {error}");
        }
        let swapped = KEY.replacen("ssh-ed25519", "ssh-rsa", 1);
        assert!(fingerprint(&swapped).is_err());
    }
}
