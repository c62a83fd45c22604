//! The pipelines of a whole `model.yaml`: which tensors they make, and their checks.

use super::{MAX_STATE, MAX_STEPS, Postprocess, Preprocess, Step, check};
use crate::manifest::{Manifest, ManifestError, TensorSpec, check_unique, field};
use crate::names::TensorName;

/// Most bytes of an element of BYTES that no step limits: a text.
const DEFAULT_TEXT_BYTES: usize = 1 << 20;

impl Manifest {
    /// What comes out of the steps before the model: for each input of a request what its pipelines make of it,
    /// or the input itself where it has none.
    pub fn prepared_inputs(&self) -> impl Iterator<Item = &TensorSpec> {
        self.inputs.iter().flat_map(|input| {
            let own = || self.preprocess.iter().filter(|p| p.from == input.name);
            let itself = own().next().is_none().then_some(input);
            itself.into_iter().chain(own().map(|p| &p.to))
        })
    }

    /// What goes into the steps after the model: for each output of a reply what its pipeline is made from,
    /// or the output itself where it has none. One that several need is there once.
    pub fn raw_outputs(&self) -> Vec<&TensorSpec> {
        let mut raw: Vec<&TensorSpec> = Vec::new();
        let mut add = |spec| {
            if !raw.contains(&spec) {
                raw.push(spec);
            }
        };
        for output in &self.outputs {
            let Some(own) = self.postprocess.iter().find(|p| p.to == output.name) else {
                add(output);
                continue;
            };
            add(&own.from);
            for step in &own.steps {
                if let Step::Join { with, .. } = step {
                    add(with);
                }
            }
        }
        raw
    }

    /// Most bytes that one element of a BYTES input may have.
    pub fn most_bytes(&self, input: &TensorName) -> usize {
        let steps = self
            .preprocess
            .iter()
            .filter(|p| p.from == *input)
            .flat_map(|p| &p.steps);
        let limits = steps.filter_map(|step| match step {
            Step::DecodeImage { max_bytes, .. } => Some(*max_bytes as usize),
            _ => None,
        });
        limits.max().unwrap_or(DEFAULT_TEXT_BYTES)
    }

    /// Checks every pipeline, and that together they stay within bounds.
    pub(crate) fn check_pipelines(&self) -> Result<(), ManifestError> {
        let before = self.preprocess.iter().map(|p| p.steps.len());
        let steps: usize = before.chain(self.postprocess.iter().map(|p| p.steps.len())).sum();
        if steps > MAX_STEPS {
            let problem = format!("{steps} steps before and after the model are more than {MAX_STEPS}");
            return Err(field("preprocess, postprocess", problem));
        }
        check_unique(
            "postprocess",
            "to",
            self.postprocess.iter().map(|p| p.to.as_str()),
        )?;
        let mut state = 0usize;
        for (i, p) in self.preprocess.iter().enumerate() {
            state = state.saturating_add(self.check_preprocess(&format!("preprocess[{i}]"), p)?);
        }
        for (i, p) in self.postprocess.iter().enumerate() {
            state = state.saturating_add(self.check_postprocess(&format!("postprocess[{i}]"), p)?);
        }
        if state > MAX_STATE {
            let problem =
                format!("their steps keep {state} numbers for each sequence, the most is {MAX_STATE}");
            return Err(field("preprocess, postprocess", problem));
        }
        Ok(())
    }

    fn check_preprocess(&self, at: &str, p: &Preprocess) -> Result<usize, ManifestError> {
        let Some(input) = self.inputs.iter().find(|input| input.name == p.from) else {
            let problem = format!("no input is named {:?}", p.from.as_str());
            return Err(field(format!("{at}.from"), problem));
        };
        if let Some(i) = p.steps.iter().position(|step| matches!(step, Step::Join { .. })) {
            return Err(field(
                format!("{at}.steps[{i}] (Join)"),
                "it joins outputs of the model: use it in postprocess",
            ));
        }
        check(at, input, &p.to, &p.steps, self.labels.len())
    }

    fn check_postprocess(&self, at: &str, p: &Postprocess) -> Result<usize, ManifestError> {
        let Some(output) = self.outputs.iter().find(|output| output.name == p.to) else {
            let problem = format!("no output is named {:?}", p.to.as_str());
            return Err(field(format!("{at}.to"), problem));
        };
        check(at, &p.from, output, &p.steps, self.labels.len())
    }
}
