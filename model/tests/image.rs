//! What `write_image` promises: the digest is a function of the content alone.

#![allow(clippy::unwrap_used)]

use perwatt_model::{ImageError, ImageSpec, Layout, write_image};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

fn spec(layers: &[&Path]) -> ImageSpec<'static> {
    ImageSpec {
        name: "perwatt.test/thing",
        tag: Some("1.2"),
        layers: layers.iter().map(PathBuf::from).collect(),
        entrypoint: vec!["/thing".into()],
        env: vec!["A=b".into()],
        user: Some("65532:65532".into()),
    }
}

fn make(dir: &Path, order: &[&str], mode: u32, age: u64) {
    fs::create_dir_all(dir.join("etc/deep")).unwrap();
    for name in order {
        let path = dir.join(name);
        fs::write(&path, format!("content of {name}")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let file = File::options().write(true).open(&path);
        if let Ok(file) = file {
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age))
                .unwrap();
        }
    }
    symlink("../a", dir.join("etc/link")).unwrap();
}

fn read(tar: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(File::open(tar).unwrap());
    let entry = |e: std::io::Result<tar::Entry<'_, File>>| {
        let mut e = e.unwrap();
        let mut content = Vec::new();
        e.read_to_end(&mut content).unwrap();
        (e.path().unwrap().display().to_string(), content)
    };
    archive.entries().unwrap().map(entry).collect()
}

#[test]
fn same_content_gives_the_same_bytes_whatever_times_order_and_umask() {
    let tmp = tempfile::tempdir().unwrap();
    let (one, two) = (tmp.path().join("one"), tmp.path().join("two"));
    make(&one, &["a", "b", "etc/deep/c"], 0o644, 1_000_000);
    make(&two, &["etc/deep/c", "b", "a"], 0o600, 1_700_000_000);
    let first = write_image(&spec(&[&one]), &tmp.path().join("1.tar")).unwrap();
    let second = write_image(&spec(&[&two]), &tmp.path().join("2.tar")).unwrap();
    assert_eq!(first, second);
    assert_eq!(
        fs::read(tmp.path().join("1.tar")).unwrap(),
        fs::read(tmp.path().join("2.tar")).unwrap()
    );
    assert_eq!(first.bytes, fs::metadata(tmp.path().join("1.tar")).unwrap().len());
}

#[test]
fn the_owner_of_the_files_is_no_content() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("d");
    make(&dir, &["a", "b"], 0o644, 1);
    let pack = || write_image(&spec(&[&dir]), &tmp.path().join("i.tar")).unwrap();
    let before = pack();
    // Only root may give files away; for others the owner is always the same.
    if std::os::unix::fs::chown(dir.join("a"), Some(4321), Some(1234)).is_ok() {
        assert_eq!(pack(), before);
    }
}

#[test]
fn a_written_layout_is_read_back_part_by_part() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("d");
    make(&dir, &["a"], 0o644, 1);
    let file = tmp.path().join("i.tar");
    // The same folder twice: one blob, two layers.
    let packed = write_image(&spec(&[&dir, &dir]), &file).unwrap();
    let layout = Layout::open(&file).unwrap();
    assert_eq!(layout.digest, packed.digest);
    assert_eq!(layout.blobs.len(), 2, "a configuration and one layer");
    let bytes = fs::read(&file).unwrap();
    for blob in &layout.blobs {
        use sha2::Digest;
        let (start, end) = (blob.offset as usize, (blob.offset + blob.bytes) as usize);
        let digest = hex::encode(sha2::Sha256::digest(&bytes[start..end]));
        assert_eq!(blob.digest, format!("sha256:{digest}"));
    }
}

#[test]
fn what_is_no_layout_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("d");
    make(&dir, &["a"], 0o644, 1);
    let file = tmp.path().join("i.tar");
    write_image(&spec(&[&dir]), &file).unwrap();
    let whole = fs::read(&file).unwrap();
    for content in [&b""[..], b"garbage", &whole[..whole.len() / 3]] {
        fs::write(&file, content).unwrap();
        Layout::open(&file).unwrap_err();
    }
    Layout::open(&tmp.path().join("nothing")).unwrap_err();
}

#[test]
fn other_content_or_an_executable_bit_gives_another_digest() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("d");
    make(&dir, &["a", "b"], 0o644, 1);
    let digest = || {
        write_image(&spec(&[&dir]), &tmp.path().join("i.tar"))
            .unwrap()
            .digest
    };
    let before = digest();
    fs::set_permissions(dir.join("a"), Permissions::from_mode(0o755)).unwrap();
    let executable = digest();
    fs::write(dir.join("a"), "other").unwrap();
    let other = digest();
    assert_ne!(before, executable);
    assert_ne!(executable, other);
}

#[test]
fn every_blob_has_the_name_of_its_hash_and_the_index_names_the_reference() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("d");
    make(&dir, &["a"], 0o755, 1);
    // The same folder twice: one blob, two layers.
    let packed = write_image(&spec(&[&dir, &dir]), &tmp.path().join("i.tar")).unwrap();
    let files = read(&tmp.path().join("i.tar"));
    for (name, content) in &files {
        if let Some(hash) = name.strip_prefix("blobs/sha256/") {
            use sha2::Digest;
            assert_eq!(hash, hex::encode(sha2::Sha256::digest(content)));
        }
    }
    let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let descriptor = &index["manifests"][0];
    assert_eq!(descriptor["digest"], packed.digest);
    assert_eq!(
        descriptor["annotations"]["io.containerd.image.name"],
        packed.reference
    );
    assert_eq!(packed.reference, format!("perwatt.test/thing@{}", packed.digest));
    let tagged = &index["manifests"][1];
    assert_eq!(tagged["digest"], packed.digest);
    assert_eq!(
        tagged["annotations"]["io.containerd.image.name"],
        "perwatt.test/thing:1.2"
    );
    let blob = |digest: &serde_json::Value| -> serde_json::Value {
        let name = digest.as_str().unwrap().replace(':', "/");
        serde_json::from_slice(&files[&format!("blobs/{name}")]).unwrap()
    };
    let manifest = blob(&descriptor["digest"]);
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
    let config = blob(&manifest["config"]["digest"]);
    assert_eq!(config["os"], "linux");
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/thing");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
    assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[test]
fn a_layer_keeps_links_modes_and_no_owner() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("d");
    make(&dir, &["a"], 0o711, 1);
    write_image(&spec(&[&dir]), &tmp.path().join("i.tar")).unwrap();
    let files = read(&tmp.path().join("i.tar"));
    let layer = files
        .values()
        .find(|content| tar_names(content).contains(&"etc/link".to_owned()))
        .unwrap();
    let mut archive = tar::Archive::new(&layer[..]);
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(
            (
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mtime().unwrap()
            ),
            (0, 0, 0)
        );
        match entry.path().unwrap().to_str().unwrap() {
            "a" => assert_eq!(header.mode().unwrap(), 0o755),
            "etc/link" => assert_eq!(entry.link_name().unwrap().unwrap(), Path::new("../a")),
            _ => assert!(header.entry_type().is_dir()),
        }
    }
}

fn tar_names(content: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(content);
    let Ok(entries) = archive.entries() else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .map(|e| e.path().unwrap().display().to_string())
        .collect()
}

#[test]
fn what_an_image_cannot_hold_is_refused_and_leaves_no_file() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("d");
    let out = tmp.path().join("out/i.tar");
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir_all(out.parent().unwrap()).unwrap();
    symlink("../../etc/passwd", dir.join("link")).unwrap();
    let error = write_image(&spec(&[&dir]), &out).unwrap_err();
    assert!(matches!(error, ImageError::Escape { .. }), "{error}");
    fs::remove_file(dir.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("s")).unwrap();
    let error = write_image(&spec(&[&dir]), &out).unwrap_err();
    assert!(matches!(error, ImageError::Kind(_)), "{error}");
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_name_with_tag_digest_or_upper_case_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    for name in [
        "",
        "a:b",
        "a@sha256:0",
        "Upper/case",
        "/a",
        "a//b",
        "a/../b",
        "a b",
    ] {
        let spec = ImageSpec { name, ..spec(&[]) };
        let error = write_image(&spec, &tmp.path().join("i.tar")).unwrap_err();
        assert!(matches!(error, ImageError::Name(_)), "{name}: {error}");
    }
    for name in [
        "a",
        "registry.example:5000/models/speech-gate",
        "perwatt.dev/runtime",
    ] {
        let spec = ImageSpec { name, ..spec(&[]) };
        write_image(&spec, &tmp.path().join("i.tar")).unwrap();
    }
}
