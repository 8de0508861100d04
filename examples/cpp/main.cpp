// Answers rows by an exported TorchScript file:
//
//   answers FOLDER [DEVICE] < rows.tsv
//
// A line of the input is a task and its texts, in the order of the task's `columns` in FOLDER/tasks.json, with tabs
// between; DEVICE is cpu or cuda. A line is printed for each: the label, the text that the trunk wrote, and the label's
// share of the likelihoods of all labels. The label is the one that this text stands for, else the likeliest, in the
// task's own words.
// Exits with 2 for input that is wrong, with a line that says what.
#include <dlfcn.h>
#include <torch/script.h>

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tokenizer.h"

namespace {

constexpr std::size_t AT_A_TIME = 128;  // rows

struct Task {
  std::string name;
  std::vector<std::string> before, labels, words;
  int64_t longest;
};

// What the file says of its tasks, by their indices.
std::vector<Task> tasks_of(const torch::jit::Module& model) {
  const auto names = model.attr("task_names").toListRef();
  const auto before = model.attr("before").toListRef();
  const auto labels = model.attr("labels").toListRef();
  const auto words = model.attr("words").toListRef();
  const auto longest = model.attr("max_source_lengths").toIntVector();
  const auto strings = [](const c10::IValue& list) {
    std::vector<std::string> found;
    for (const auto& value : list.toListRef()) {
      found.push_back(value.toStringRef());
    }
    return found;
  };
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < names.size(); ++i) {
    tasks.push_back(
        {names[i].toStringRef(), strings(before[i]), strings(labels[i]), strings(words[i]), longest[i]});
  }
  return tasks;
}

// The parts of a line between tabs.
std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  std::size_t start = 0;
  for (std::size_t tab = 0; tab != std::string::npos; start = tab + 1) {
    tab = line.find('\t', start);
    fields.push_back(line.substr(start, tab - start));
  }
  return fields;
}

// The rows of up to `AT_A_TIME` lines, packed as the model reads them.
struct Rows {
  std::vector<int64_t> ids, ends{0}, tasks;

  void add(const std::string& line, const std::vector<Task>& known, const Tokenizer& tokenizer, int64_t end_id) {
    auto fields = fields_of(line);
    const auto task = std::find_if(known.begin(), known.end(), [&](const Task& one) { return one.name == fields[0]; });
    if (task == known.end()) {
      throw std::runtime_error("unknown task '" + fields[0] + "'; tasks.json lists those of the file");
    }
    fields.erase(fields.begin());
    if (fields.size() != task->before.size()) {
      throw std::runtime_error("a row of " + task->name + " has " + std::to_string(task->before.size()) +
                               " texts, not " + std::to_string(fields.size()));
    }
    const auto row = tokenizer.row(task->before, fields, task->longest, end_id);
    ids.insert(ids.end(), row.begin(), row.end());
    ends.push_back(static_cast<int64_t>(ids.size()));
    tasks.push_back(task - known.begin());
  }
};

void answer(Rows& rows, torch::jit::Module& model, const std::vector<Task>& known, const Tokenizer& tokenizer) {
  const auto vector = [](std::vector<int64_t>& of) {
    return torch::from_blob(of.data(), {static_cast<int64_t>(of.size())}, torch::kInt64);
  };
  const auto result = model.forward({vector(rows.ids), vector(rows.ends), vector(rows.tasks)}).toTuple();
  const auto& parts = result->elements();
  const auto answers = parts[0].toTensor().contiguous(), scores = parts[2].toTensor().contiguous();
  const auto ends = parts[1].toTensor().contiguous(), score_ends = parts[3].toTensor().contiguous();
  for (std::size_t row = 0; row < rows.tasks.size(); ++row) {
    const auto* end = ends.data_ptr<int64_t>() + row;
    const auto* score_end = score_ends.data_ptr<int64_t>() + row;
    const auto text = tokenizer.text(answers.data_ptr<int64_t>() + end[0], static_cast<std::size_t>(end[1] - end[0]));
    const auto shares = scores.slice(0, score_end[0], score_end[1]).softmax(0);
    const Task& task = known[rows.tasks[row]];
    const auto& labels = task.labels;
    const auto written = std::find(labels.begin(), labels.end(), text);
    const int64_t label = written == labels.end() ? shares.argmax().item<int64_t>() : written - labels.begin();
    std::cout << task.words[label] << '\t' << text << '\t' << shares[label].item<float>() << '\n';
  }
}

void run(const std::string& folder, const std::string& device) {
  // The operators must be known before a model that calls them is read.
  if (dlopen((folder + "/ops.so").c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(dlerror());
  }
  auto model = torch::jit::load(folder + "/model.pt", torch::Device(device));
  const auto tasks = tasks_of(model);
  const Tokenizer tokenizer(folder + "/spiece.model");
  const int64_t end_id = model.attr("end_id").toInt();
  const c10::InferenceMode inference;
  std::cout << std::fixed << std::setprecision(4);
  std::string line;
  for (std::size_t number = 1; std::cin;) {
    Rows rows;
    for (; rows.tasks.size() < AT_A_TIME && std::getline(std::cin, line); ++number) {
      try {
        rows.add(line, tasks, tokenizer, end_id);
      } catch (const std::runtime_error& error) {
        throw std::runtime_error("line " + std::to_string(number) + ": " + error.what());
      }
    }
    if (!rows.tasks.empty()) {
      answer(rows, model, tasks, tokenizer);
    }
  }
}

}  // namespace

int main(int count, char** words) {
  if (count != 2 && count != 3) {
    std::cerr << "usage: answers FOLDER [DEVICE] < rows.tsv\n";
    return 2;
  }
  try {
    run(words[1], count == 3 ? words[2] : "cpu");
  } catch (const c10::Error& error) {
    std::cerr << "error: " << error.what_without_backtrace() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  }
  return 0;
}
