//! A model folder is used only when its files are what `model.yaml` says.

#![allow(clippy::unwrap_used)]

use perwatt_model::{FolderError, ModelFolder};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

fn make(dir: &Path, hash_of: &str) -> PathBuf {
    let dir = dir.join("model");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/a.onnx"), "weights").unwrap();
    fs::write(dir.join("LICENSE"), "terms").unwrap();
    let yaml = format!(
        "schema: 1\nname: gate\nversion: \"1\"\nlicence: {{spdx: MIT, file: LICENSE}}\n\
         inputs: [{{name: in, datatype: FP32, shape: [1]}}]\noutputs: [{{name: out, datatype: FP32, shape: [1]}}]\n\
         files: [{{path: sub/a.onnx, sha256: \"{}\", backend: Onnx, precision: float32}}]\n",
        hex::encode(Sha256::digest(hash_of))
    );
    fs::write(dir.join("model.yaml"), yaml).unwrap();
    dir
}

#[test]
fn a_good_folder_is_read_whole() {
    let tmp = tempfile::tempdir().unwrap();
    let folder = ModelFolder::open(&make(tmp.path(), "weights")).unwrap();
    assert!(folder.check_files().is_empty());
    assert_eq!(folder.read_file(&folder.manifest().files[0]).unwrap(), b"weights");
}

#[test]
fn another_hash_names_the_file_the_expected_and_the_found() {
    let tmp = tempfile::tempdir().unwrap();
    let folder = ModelFolder::open(&make(tmp.path(), "others")).unwrap();
    let error = folder
        .read_file(&folder.manifest().files[0])
        .unwrap_err()
        .to_string();
    for hash in ["others", "weights"] {
        assert!(error.contains(&hex::encode(Sha256::digest(hash))), "{error}");
    }
    assert!(error.contains("sub/a.onnx"), "{error}");
    assert_eq!(folder.check_files().len(), 1);
    let out = tmp.path().join("i.tar");
    assert!(matches!(folder.pack("gate", &out), Err(FolderError::Hash { .. })));
    assert!(!out.exists());
}

#[test]
fn missing_parts_are_named() {
    let tmp = tempfile::tempdir().unwrap();
    let error = ModelFolder::open(&tmp.path().join("none"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("none"), "{error}");
    let error = ModelFolder::open(tmp.path()).unwrap_err().to_string();
    assert!(error.contains("model.yaml"), "{error}");
    let dir = make(tmp.path(), "weights");
    fs::remove_file(dir.join("sub/a.onnx")).unwrap();
    fs::remove_file(dir.join("LICENSE")).unwrap();
    let errors = ModelFolder::open(&dir).unwrap().check_files();
    let text = errors.iter().map(ToString::to_string).collect::<String>();
    assert!(
        errors.len() == 2 && text.contains("sub/a.onnx") && text.contains("LICENSE"),
        "{text}"
    );
    fs::create_dir(dir.join("sub/a.onnx")).unwrap();
    let error = ModelFolder::open(&dir)
        .unwrap()
        .check_files()
        .remove(0)
        .to_string();
    assert!(error.contains("not a file"), "{error}");
}

#[test]
fn a_link_out_of_the_folder_is_refused_whatever_its_hash() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = make(tmp.path(), "weights");
    fs::write(tmp.path().join("outside"), "weights").unwrap();
    fs::remove_file(dir.join("sub/a.onnx")).unwrap();
    symlink("../../outside", dir.join("sub/a.onnx")).unwrap();
    let folder = ModelFolder::open(&dir).unwrap();
    let error = folder.read_file(&folder.manifest().files[0]).unwrap_err();
    assert!(error.to_string().contains("outside the model folder"), "{error}");
}

#[test]
fn a_pack_holds_only_what_model_yaml_names() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = make(tmp.path(), "weights");
    let pack = |out: &str| {
        ModelFolder::open(&dir)
            .unwrap()
            .pack("perwatt.test/gate", &tmp.path().join(out))
            .unwrap()
    };
    let before = pack("1.tar");
    fs::write(dir.join("notes.txt"), "private").unwrap();
    fs::write(dir.join("sub/.swap"), "private").unwrap();
    assert_eq!(before, pack("2.tar"));
    let bytes = fs::read(tmp.path().join("2.tar")).unwrap();
    assert!(!bytes.windows(7).any(|w| w == b"private"));
    assert!(bytes.windows(7).any(|w| w == b"weights"));
}
