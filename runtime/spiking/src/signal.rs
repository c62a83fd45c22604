//! What travels over an edge in one step: nothing, spikes, or numbers.

/// How a signal is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Form {
    /// Zero everywhere.
    #[default]
    Silent,
    /// One at the indices in `events`, zero elsewhere.
    Spikes,
    /// The numbers in `values`.
    Dense,
}

/// A vector, held as cheaply as its content allows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Signal {
    pub(crate) form: Form,
    /// Indices of spikes, ascending; read only in form `Spikes`.
    pub(crate) events: Vec<u32>,
    /// One number for each element; read only in form `Dense`.
    pub(crate) values: Vec<f64>,
    length: usize,
}

impl Signal {
    pub(crate) fn new(length: usize) -> Self {
        Self {
            length,
            ..Self::default()
        }
    }

    /// A silent signal of another length.
    pub(crate) fn reshape(&mut self, length: usize) {
        self.length = length;
        self.form = Form::Silent;
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn set_silent(&mut self) {
        self.form = Form::Silent;
    }

    /// Zeros to be filled with numbers.
    pub(crate) fn zeroed(&mut self) -> &mut [f64] {
        self.form = Form::Dense;
        self.values.clear();
        self.values.resize(self.length, 0.0);
        &mut self.values
    }

    /// Numbers to be overwritten, all of them.
    pub(crate) fn dense(&mut self) -> &mut [f64] {
        self.form = Form::Dense;
        self.values.resize(self.length, 0.0);
        &mut self.values
    }

    /// An empty list of spikes, to be filled in ascending order and closed by [`Self::settle`].
    pub(crate) fn spikes(&mut self) -> &mut Vec<u32> {
        self.form = Form::Spikes;
        self.events.clear();
        &mut self.events
    }

    /// No spikes are silence.
    pub(crate) fn settle(&mut self) {
        if self.form == Form::Spikes && self.events.is_empty() {
            self.form = Form::Silent;
        }
    }

    /// Takes numbers from outside, as spikes where they are nothing but zeros and ones.
    pub(crate) fn load(&mut self, values: &[f64]) {
        if !values.iter().all(|&value| value == 0.0 || value == 1.0) {
            self.form = Form::Dense;
            self.values.clear();
            self.values.extend_from_slice(values);
            return;
        }
        let ones = (0u32..).zip(values).filter(|(_, value)| **value != 0.0);
        self.spikes().extend(ones.map(|(index, _)| index));
        self.settle();
    }

    /// Adds this signal to `sum`.
    pub(crate) fn add_to(&self, sum: &mut [f64]) {
        match self.form {
            Form::Silent => {}
            Form::Spikes => {
                for &index in &self.events {
                    if let Some(value) = sum.get_mut(index as usize) {
                        *value += 1.0;
                    }
                }
            }
            Form::Dense => {
                for (sum, value) in sum.iter_mut().zip(&self.values) {
                    *sum += value;
                }
            }
        }
    }

    /// Copies what `other` carries.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        self.form = other.form;
        match other.form {
            Form::Silent => {}
            Form::Spikes => self.events.clone_from(&other.events),
            Form::Dense => self.values.clone_from(&other.values),
        }
    }

    /// Number of elements that are not zero.
    pub(crate) fn nonzero(&self) -> usize {
        match self.form {
            Form::Silent => 0,
            Form::Spikes => self.events.len(),
            Form::Dense => self.values.iter().filter(|value| **value != 0.0).count(),
        }
    }
}
