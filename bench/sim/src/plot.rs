//! A run as a picture: who was done when, and where the bytes came from.

use std::io;

use plotters::chart::{ChartBuilder, ChartContext, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    BLACK, Cartesian2d, Color as _, DashedLineSeries, DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _,
    IntoFont as _, IntoLogRange as _, LineSeries, PathElement, RGBColor, SVGBackend, ShapeStyle, Text, WHITE,
};

use crate::{Report, Sample, Scenario};

const SIZE: (u32, u32) = (960, 880);
const HEADER_HEIGHT: u32 = 66;
/// Above all there can be, so that the legend covers no curve.
const PERCENT_MAX: f64 = 128.0;
const FONT: &str = "sans-serif";

/// Colors that the color-blind tell apart, by brightness too (Okabe and Ito, "Color Universal Design", 2008).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const GRAY: RGBColor = RGBColor(90, 90, 90);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>;
/// What is drawn of a sample.
type Amount = fn(&Sample) -> u64;
type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;

/// An SVG of two charts over virtual time: shares of hosts and bytes that are done, beside the bound; and bytes by where
/// they came from, beside one copy of the task.
#[must_use]
pub fn plot(scenario: &Scenario, report: &Report, samples: &[Sample]) -> String {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw(&area, scenario, report, samples).expect("a string takes every drawing");
    drop(area);
    svg
}

fn draw(area: &Area<'_>, scenario: &Scenario, report: &Report, samples: &[Sample]) -> Drawn {
    area.fill(&WHITE)?;
    let (header, charts) = area.split_vertically(HEADER_HEIGHT);
    header.draw(&Text::new(title(scenario), (20, 18), (FONT, 18)))?;
    header.draw(&Text::new(subtitle(report), (20, 44), (FONT, 15).into_font().color(&GRAY)))?;
    let (upper, lower) = charts.split_vertically((SIZE.1 - HEADER_HEIGHT) / 2);
    draw_completion(&upper, report, samples)?;
    draw_sources(&lower, scenario, samples)?;
    area.present()
}

fn draw_completion(area: &Area<'_>, report: &Report, samples: &[Sample]) -> Drawn {
    let times = Times::of(report.bound_s, samples);
    let mut chart = layout(area).build_cartesian_2d(0.0..times.end(), 0.0..PERCENT_MAX)?;
    let show = |percent: &f64| if *percent <= 100.0 { format!("{percent:.0} %") } else { String::new() };
    mesh(&mut chart, &times, "done", &show)?;
    let wanting = f64::from(report.hosts);
    let done =
        |sample: &Sample| 100.0 * f64::from(sample.hosts_done) / (wanting - f64::from(sample.hosts_dead)).max(1.0);
    let at = |sample: &Sample| times.of_seconds(sample.at.as_secs_f64());
    line(&mut chart, "bytes, mean of the living hosts", ORANGE, samples.iter().map(|s| (at(s), 100.0 * s.share)))?;
    line(&mut chart, "hosts that have everything", BLUE, samples.iter().map(|s| (at(s), done(s))))?;
    let bound = times.of_seconds(report.bound_s);
    let text = format!("lower bound, {}", show_seconds(report.bound_s));
    dashes(&mut chart, &text, [(bound, 0.0), (bound, 100.0)])?;
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

fn draw_sources(area: &Area<'_>, scenario: &Scenario, samples: &[Sample]) -> Drawn {
    let times = Times::of(scenario.bound().as_secs_f64(), samples);
    let length = as_f64(scenario.length());
    let most = samples.last().map_or(0.0, |last| as_f64(last.origin_bytes.max(last.peer_bytes)));
    // Logarithmic, for the origin's one copy and the many of the peers would not fit one scale.
    let (low, high) = ((length / 100.0).max(1.0), 2.0 * most.max(length));
    let mut chart = layout(area).build_cartesian_2d(0.0..times.end(), (low..high).log_scale())?;
    mesh(&mut chart, &times, "bytes delivered, logarithmic", &|bytes| show_bytes(*bytes))?;
    let sources: [(&str, RGBColor, Amount); 2] =
        [("from the origin", ORANGE, |sample| sample.origin_bytes), ("from peers", GREEN, |sample| sample.peer_bytes)];
    for (label, color, bytes) in sources {
        let points: Vec<_> = samples
            .iter()
            .filter(|sample| bytes(sample) > 0)
            .map(|sample| (times.of_seconds(sample.at.as_secs_f64()), as_f64(bytes(sample)).max(low)))
            .collect();
        if !points.is_empty() {
            line(&mut chart, label, color, points.into_iter())?;
        }
    }
    dashes(&mut chart, "one copy", [(0.0, length), (times.end(), length)])?;
    legend(&mut chart, SeriesLabelPosition::LowerRight)
}

fn layout<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin(12).margin_right(30).x_label_area_size(46).y_label_area_size(84);
    builder
}

fn mesh<Y>(chart: &mut Chart<'_, '_, Y>, times: &Times, y_label: &str, show: &dyn Fn(&f64) -> String) -> Drawn
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc(format!("time since the first start ({})", times.unit))
        .y_desc(y_label)
        .x_labels(10)
        .y_labels(8)
        .y_label_formatter(show)
        .axis_desc_style((FONT, 15))
        .label_style((FONT, 14))
        .bold_line_style(BLACK.mix(0.12))
        .light_line_style(WHITE)
        .draw()
}

fn line<Y>(
    chart: &mut Chart<'_, '_, Y>,
    label: &str,
    color: RGBColor,
    points: impl Iterator<Item = (f64, f64)>,
) -> Drawn
where
    Y: Ranged<ValueType = f64>,
{
    let style = color.stroke_width(2);
    chart
        .draw_series(LineSeries::new(points, style))?
        .label(label)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
    Ok(())
}

/// What a run is compared with.
fn dashes<Y>(chart: &mut Chart<'_, '_, Y>, label: &str, ends: [(f64, f64); 2]) -> Drawn
where
    Y: Ranged<ValueType = f64>,
{
    let style: ShapeStyle = GRAY.stroke_width(1);
    chart
        .draw_series(DashedLineSeries::new(ends, 6, 4, style))?
        .label(label)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
    Ok(())
}

fn legend<'a, 'b: 'a, Y>(chart: &mut Chart<'a, 'b, Y>, position: SeriesLabelPosition) -> Drawn
where
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.25))
        .label_font((FONT, 14))
        .draw()
}

/// The time axis, in the unit that suits its length.
struct Times {
    unit: &'static str,
    seconds: f64,
    end_s: f64,
}

impl Times {
    fn of(bound_s: f64, samples: &[Sample]) -> Self {
        let end_s = 1.03 * samples.last().map_or(0.0, |last| last.at.as_secs_f64()).max(bound_s);
        let (unit, seconds) = unit_of(end_s);
        Self { unit, seconds, end_s }
    }

    fn of_seconds(&self, seconds: f64) -> f64 {
        seconds / self.seconds
    }

    fn end(&self) -> f64 {
        self.of_seconds(self.end_s)
    }
}

/// The unit in which people count so many seconds, with its length in seconds.
const fn unit_of(seconds: f64) -> (&'static str, f64) {
    match seconds {
        ..1.0 => ("ms", 0.001),
        1.0..300.0 => ("s", 1.0),
        300.0..18000.0 => ("min", 60.0),
        _ => ("h", 3600.0),
    }
}

fn show_seconds(seconds: f64) -> String {
    let (unit, length) = unit_of(seconds);
    format!("{:.2} {unit}", seconds / length)
}

/// In the powers of ten of a logarithmic axis.
fn show_bytes(bytes: f64) -> String {
    let units = [(1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{} {unit}", bytes / size),
        None => format!("{bytes} B"),
    }
}

/// A rate in bits, as links are sold.
fn show_rate(bytes_per_s: u64) -> String {
    let bits = 8.0 * as_f64(bytes_per_s);
    let units = [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")];
    let (size, unit) = units.into_iter().find(|(size, _)| bits >= *size).unwrap_or((1.0, "bit/s"));
    format!("{} {unit}", (100.0 * bits / size).round() / 100.0)
}

fn title(scenario: &Scenario) -> String {
    let length = scenario.length();
    let (size, unit) = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(size, _)| length >= *size)
        .unwrap_or((1, "B"));
    let size = (100.0 * as_f64(length) / as_f64(size)).round() / 100.0;
    let mut title = format!(
        "{size} {unit} to {} hosts at {}, origin {}",
        scenario.hosts - scenario.seeds,
        show_rate(scenario.up_bytes_per_s),
        show_rate(scenario.origin_bytes_per_s),
    );
    if scenario.slow_hosts > 0 {
        title += &format!("; {} are {} x slower", scenario.slow_hosts, scenario.slow_factor);
    }
    if scenario.deaths > 0 {
        title += &format!("; {} die", scenario.deaths);
    }
    if !scenario.start_spread.is_zero() {
        title += &format!("; starts spread over {}", show_seconds(scenario.start_spread.as_secs_f64()));
    }
    title
}

fn subtitle(report: &Report) -> String {
    format!(
        "all hosts done after {} = {:.3} x the lower bound; the origin sent {:.3} copies; seed {}",
        show_seconds(report.makespan_s),
        report.makespan_ratio,
        report.origin_ratio,
        report.seed,
    )
}

/// Near enough for a picture.
fn as_f64(amount: u64) -> f64 {
    amount as f64
}
