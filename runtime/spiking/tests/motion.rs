//! The model of `examples/motion` is what its program makes of its recordings, byte by byte. Needs
//! `PERWATT_MOTION_DIR`: the folder that `examples/motion/fetch` filled (`make test` sets it).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)] // the program has a `main`, and a test's half of the data
#[path = "../../../examples/motion/make.rs"]
mod make;

use perwatt_spiking::write;
use std::path::PathBuf;

#[test]
fn the_model_is_made_of_the_training_half() {
    let Some(dir) = std::env::var_os("PERWATT_MOTION_DIR").map(PathBuf::from) else {
        eprintln!("skipped: PERWATT_MOTION_DIR is not set; run examples/motion/fetch and set it");
        return;
    };
    let text = std::fs::read_to_string(dir.join("BasicMotions_TRAIN.ts")).unwrap();
    let recordings = make::data::parse(&text).unwrap();
    let made = write(&make::make(&recordings).unwrap()).unwrap();
    let kept = include_bytes!("../../../examples/motion/model/motion.nir");
    assert!(
        made == kept,
        "make.rs makes another file: run it, and put its hash into model.yaml"
    );
}
