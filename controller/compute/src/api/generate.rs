//! New SSH keys for clients that ask for one: Ed25519, in OpenSSH's own format.
//!
//! The format is `PROTOCOL.key` of OpenSSH: `openssh-key-v1`, no cipher.

use base64::Engine as _;
use berth_rpc::clock::Rng;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

const KIND: &[u8] = b"ssh-ed25519";

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    // Everything written here is a few hundred bytes.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A public key (`ssh-ed25519 AAAA... comment`) and its private key (PEM).
pub fn ed25519(rng: &dyn Rng, comment: &str) -> (String, String) {
    let mut seed = [0_u8; 32];
    let (low, high) = seed.split_at_mut(16);
    low.copy_from_slice(&rng.bits().to_be_bytes());
    high.copy_from_slice(&rng.bits().to_be_bytes());
    let check = rng.below(1 << 32);
    from_seed(&seed, u32::try_from(check).unwrap_or(0), comment)
}

fn from_seed(seed: &[u8; 32], check: u32, comment: &str) -> (String, String) {
    // Any 32 bytes are a seed, so this cannot fail; an empty key would fail its fingerprint.
    let Ok(pair) = Ed25519KeyPair::from_seed_unchecked(seed) else {
        return (String::new(), String::new());
    };
    let public = pair.public_key().as_ref();
    let mut blob = Vec::new();
    string(&mut blob, KIND);
    string(&mut blob, public);

    let mut secret = Vec::new();
    secret.extend_from_slice(&check.to_be_bytes());
    secret.extend_from_slice(&check.to_be_bytes());
    string(&mut secret, KIND);
    string(&mut secret, public);
    string(&mut secret, &[seed.as_slice(), public].concat());
    string(&mut secret, comment.as_bytes());
    let mut pad = 1_u8;
    while secret.len() % 8 != 0 {
        secret.push(pad);
        pad += 1;
    }

    let mut file = b"openssh-key-v1\0".to_vec();
    string(&mut file, b"none");
    string(&mut file, b"none");
    string(&mut file, b"");
    file.extend_from_slice(&1_u32.to_be_bytes());
    string(&mut file, &blob);
    string(&mut file, &secret);

    let base64 = &base64::engine::general_purpose::STANDARD;
    let mut pem = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for (i, c) in base64.encode(&file).chars().enumerate() {
        if i > 0 && i % 70 == 0 {
            pem.push('\n');
        }
        pem.push(c);
    }
    pem.push_str("\n-----END OPENSSH PRIVATE KEY-----\n");
    let public = format!("ssh-ed25519 {} {comment}", base64.encode(&blob));
    (public, pem)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::keypairs::fingerprint;

    #[test]
    fn a_made_key_is_one_that_is_taken() {
        let (public, private) = from_seed(&[7; 32], 1, "mine");
        assert_eq!(fingerprint(&public).unwrap().len(), 47);
        assert!(private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        assert!(private.lines().all(|line| line.len() <= 70));
        // RFC 8032's first test vector ties seed and public key together.
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let (public, _) = from_seed(&seed.unwrap().try_into().unwrap(), 1, "");
        let blob = public.split(' ').nth(1).unwrap();
        let blob = base64::engine::general_purpose::STANDARD
            .decode(blob)
            .unwrap();
        assert_eq!(
            hex::encode(&blob[19..]),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }
}
