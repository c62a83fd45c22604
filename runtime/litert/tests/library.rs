//! The real C library with a real streaming model. Needs what `examples/wake-word/fetch` fetched, named by
//! `PERWATT_WAKE_WORD_DIR` (`make unit` sets it); without it nothing is proved here, and it says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use perwatt_litert::{Delegate, Element, Error, Graph, GraphError, Interpreter, Library, Model, Options};
use std::path::{Path, PathBuf};

fn fetched() -> Option<PathBuf> {
    let dir = std::env::var_os("PERWATT_WAKE_WORD_DIR").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("skipped: PERWATT_WAKE_WORD_DIR is not set; run examples/wake-word/fetch and set it");
    }
    dir
}

fn library(dir: &Path) -> Library {
    Library::open(&dir.join("lib/libtensorflowlite_c.so")).unwrap()
}

fn content(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model/okay_nabu.tflite")).unwrap()
}

fn answer(interpreter: &mut Interpreter, features: &[u8]) -> u8 {
    interpreter.set_input(0, features).unwrap();
    interpreter.invoke().unwrap();
    let mut answer = [0];
    interpreter.read_output(0, &mut answer).unwrap();
    answer[0]
}

/// Features and the reference's answers, as `tests/reference/wake_word.py` made them.
fn reference() -> Vec<(Vec<u8>, u8)> {
    let features = include_bytes!("../../tests/data/wake_word/features.i8");
    let answers = include_str!("../../tests/data/wake_word/answers.txt");
    let requests = features.chunks_exact(120).map(<[u8]>::to_vec);
    let pairs: Vec<_> = requests
        .zip(answers.lines().map(|line| line.parse().unwrap()))
        .collect();
    assert!(pairs.len() > 100);
    pairs
}

#[test]
fn the_graph_is_read_without_the_library() {
    let Some(dir) = fetched() else { return };
    let graph = Graph::read(&content(&dir)).unwrap();
    let [input] = &graph.inputs[..] else {
        panic!("{graph:?}")
    };
    assert_eq!(input.signature_name.as_deref(), Some("input_audio"));
    assert_eq!(
        (input.element, &input.shape[..]),
        (Element::Int8, &[1, 3, 40][..])
    );
    let quantisation = input.quantisation.unwrap();
    assert!((quantisation.scale - 0.101_960_786).abs() < 1e-6);
    assert_eq!(quantisation.zero_point, -128);
    let [output] = &graph.outputs[..] else {
        panic!("{graph:?}")
    };
    assert_eq!((output.element, &output.shape[..]), (Element::Uint8, &[1, 1][..]));
    assert!(
        graph.keeps_state && graph.operators > 30 && graph.custom_operators.is_empty(),
        "{graph:?}"
    );
}

#[test]
fn every_answer_equals_the_references() {
    let Some(dir) = fetched() else { return };
    let model = Model::load(&library(&dir), &content(&dir)).unwrap();
    let mut interpreter = Interpreter::new(&model, &Options::default()).unwrap();
    for (at, (features, expected)) in reference().iter().enumerate() {
        assert_eq!(answer(&mut interpreter, features), *expected, "request {at}");
    }
}

#[test]
fn interpreters_keep_their_own_state_on_threads_of_their_own() {
    let Some(dir) = fetched() else { return };
    let model = Model::load(&library(&dir), &content(&dir)).unwrap();
    let streams: Vec<_> = (0..4)
        .map(|skip| {
            let model = model.clone();
            std::thread::spawn(move || {
                // Streams that begin apart must not see one another.
                let mut interpreter = Interpreter::new(&model, &Options::default()).unwrap();
                (0..skip).for_each(|_| drop(Interpreter::new(&model, &Options::default()).unwrap()));
                reference()
                    .iter()
                    .filter(|(features, expected)| answer(&mut interpreter, features) != *expected)
                    .count()
            })
        })
        .collect();
    for stream in streams {
        assert_eq!(stream.join().unwrap(), 0);
    }
}

#[test]
fn an_interpreter_lives_on_without_its_model_and_wrong_sizes_are_refused() {
    let Some(dir) = fetched() else { return };
    let model = Model::load(&library(&dir), &content(&dir)).unwrap();
    let mut interpreter = Interpreter::new(&model, &Options::default()).unwrap();
    drop(model);
    assert!(matches!(
        interpreter.set_input(0, &[0; 119]),
        Err(Error::Input {
            index: 0,
            needed: 120,
            given: 119
        })
    ));
    assert!(matches!(
        interpreter.set_input(1, &[0; 120]),
        Err(Error::NoTensor(1))
    ));
    assert!(matches!(
        interpreter.read_output(0, &mut [0; 2]),
        Err(Error::Output { .. })
    ));
    let (features, expected) = &reference()[0];
    assert_eq!(answer(&mut interpreter, features), *expected);
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let Some(dir) = fetched() else { return };
    let (library, content) = (library(&dir), content(&dir));
    for length in (0..content.len()).step_by(997) {
        let error = Model::load(&library, &content[..length]).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
    assert!(matches!(
        Model::load(&library, b"").unwrap_err(),
        Error::Graph(GraphError::Format)
    ));
}

#[test]
fn a_damaged_file_never_panics_the_reader() {
    let Some(dir) = fetched() else { return };
    let content = content(&dir);
    // A fixed sequence of damages: the same on every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut refused = 0;
    for _ in 0..2_000 {
        let mut damaged = content.clone();
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = usize::try_from(state % content.len() as u64).unwrap();
            damaged[at] = state.to_le_bytes()[7];
        }
        refused += u32::from(Graph::read(&damaged).is_err());
    }
    assert!(refused > 100, "only {refused} of 2000 were refused");
}

#[test]
fn libraries_that_are_absent_or_others_are_named() {
    let error = Library::open(Path::new("/nowhere/libtensorflowlite_c.so")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("/nowhere/libtensorflowlite_c.so") && text.contains("PERWATT_LITERT_LIBRARY"),
        "{text}"
    );
    let text = Library::open(Path::new("libm.so.6")).unwrap_err().to_string();
    assert!(text.contains("libm.so.6") && text.contains("TfLite"), "{text}");
    let text = Delegate::open(Path::new("libm.so.6"), &[])
        .unwrap_err()
        .to_string();
    assert!(text.contains("no LiteRT delegate"), "{text}");
}

/// Where Cargo puts the delegate of `examples/`.
fn idle_delegate() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/libidle_delegate.so");
    assert!(
        built.is_file(),
        "{} is missing: cargo test -p perwatt-litert builds it",
        built.display()
    );
    built
}

#[test]
fn a_delegate_is_made_asked_and_given_back_after_its_interpreter() {
    let Some(dir) = fetched() else { return };
    let model = Model::load(&library(&dir), &content(&dir)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let log_text = || std::fs::read_to_string(&log).unwrap();
    let options = |fail: &str| {
        let options = [
            ("log".to_owned(), log.display().to_string()),
            ("fail".to_owned(), fail.to_owned()),
        ];
        Options {
            threads: 1,
            delegate: Some(Delegate::open(&idle_delegate(), &options).unwrap()),
        }
    };
    let mut interpreter = Interpreter::new(&model, &options("")).unwrap();
    for (features, expected) in &reference()[..20] {
        assert_eq!(answer(&mut interpreter, features), *expected);
    }
    assert!(
        log_text().starts_with("create\nprepare\n") && !log_text().contains("destroy"),
        "{}",
        log_text()
    );
    drop(interpreter);
    assert!(log_text().ends_with("destroy\n"), "{}", log_text());

    let error = Interpreter::new(&model, &options("create"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("told to fail") && error.contains("libidle_delegate.so"),
        "{error}"
    );
    assert!(Interpreter::new(&model, &options("prepare")).is_err());
    assert!(
        log_text().ends_with("prepare\ndestroy\n"),
        "one that failed is given back too: {}",
        log_text()
    );
}
