"""The report's texts in Chinese, by the English ones."""

REPORT = {
    # How clauses and sentences are joined.
    ", ": "、",
    "; ": "；",
    ". ": "。",
    ".": "。",
    " ": "",
    " and ": "和",
    " or ": "或",
    " ({parts})": "（{parts}）",
    "{first} and {more} more": "{first}等，另有 {more} 个",
    "row": "行",
    "rows": "行",
    "token": "个 token",
    "answer": "个回答",
    "figure": "个数字",
    "setting": "项设置",
    "reply": "条回复",
    "comparison rests": "项比较",
    "not known": "未知",
    "whether rows were seen in training is not known": "数据行是否在训练中出现过，未知",
    # elsewhere.py
    "{model} was trained elsewhere, on what is not known: what its training took, its loss, and "
    "whether the rows that it is scored on are among its training rows is not known here "
    "({mark}).": (
        "{model} 是在别处训练的，训练数据未知：训练的开销、损失，以及用来打分的数据行是否在它的训练数据里，"
        "这里都不知道（{mark}）。"
    ),
    "{model} was trained elsewhere, as its importer says on {rows}: what its training took, its "
    "loss, and whether the rows that it is scored on are among its training rows is not known here "
    "({mark}).": (
        "{model} 是在别处训练的，导入者说训练数据是 {rows}：训练的开销、损失，以及用来打分的数据行是否在它的"
        "训练数据里，这里都不知道（{mark}）。"
    ),
    "of variants that were trained elsewhere, {better} of {total} {noun} with the base {verb} "
    "better": "在别处训练的变体与基座的 {total} 项比较中，{better} 项更好",
    # findings.py
    "Perplexity is the number of equally likely next tokens between which a model chooses on "
    "average: 1 is certainty, lower is better. The headline is exp(total nats ÷ total tokens) over "
    "the response and its end token, on held-out rows. Brackets give the 95 % bootstrap interval "
    "over rows; a difference counts as better or worse only if its interval does not contain zero. "
    "Compare figures only within one set and between models that share a tokenizer.": (
        "困惑度是模型平均而言在多少个等可能的下一个 token 之间做选择：1 表示完全确定，越低越好。"
        "主要数字是 exp(总 nats ÷ 总 token 数)，在留出数据的回答及其结束符上计算。"
        "方括号里是对数据行做自助法得到的 95 % 区间；只有区间不含零，差异才算更好或更差。"
        "只在同一个留出集内、使用同一个分词器的模型之间比较。"
    ),
    "The models of this report do not share a tokenizer. A perplexity is a mean over tokens, and "
    "tokenizers cut the same reply into different numbers of tokens, so perplexities of different "
    "bases cannot be compared. Bits per byte can: total nats ÷ ln 2 ÷ UTF-8 bytes of the replies, "
    "over the same rows as the perplexity; lower is better.": (
        "这份报告里的模型用的不是同一个分词器。困惑度是按 token 平均的，而不同的分词器会把同一段回复切成"
        "不同数量的 token，因此不同基座的困惑度不能互相比较。每字节比特数可以比较："
        "总 nats ÷ ln 2 ÷ 回复的 UTF-8 字节数，与困惑度用的是同样的数据行；越低越好。"
    ),
    "A base in its own chat template is the untrained base, asked in the format that its makers "
    "tuned it with. A variant in another template learns that template first, so a part of its "
    "gain over its base is no better answer, only the format. Both templates put the same prompts "
    "and score the same replies. The tokens at a reply's end may differ, so the parts of the gain "
    "are in bits per byte of the replies (above zero is better): gain = template + training.": (
        "“基座用自己的聊天模板”指未经训练的基座，按其作者调优时的格式提问。用其他模板训练的变体要先学会那个模板，"
        "所以它相对基座的提升有一部分只是格式，并不是回答更好。两种模板提的是同样的问题，打分的是同样的回复。"
        "回复结尾的 token 可能不同，因此各部分以回复的每字节比特数表示（大于零为更好）：提升 = 模板 + 训练。"
    ),
    "“By the paper's protocol” is the mean of the rows' own perplexities over all tokens, those of "
    "the template included, as the paper computed it. A model that is trained on every token, as "
    "in the paper, also learns the template, which is the same in every row, and gets a low "
    "perplexity here; a model that is trained on responses alone does not. The two measures cannot "
    "be compared.": (
        "“按论文口径”是各行自身困惑度的平均值，在全部 token（包括模板）上计算，与论文的算法一致。"
        "像论文那样在每个 token 上训练的模型也会学到模板，而模板每行都相同，所以这里的困惑度很低；"
        "只在回答上训练的模型则不会。两种口径不能互相比较。"
    ),
    "The paper's figures are copied from “Building a simple ChatGPT” (打造简单版本的 ChatGPT, "
    "14 July 2023) and were not measured here: 4-bit LLaMA 7B and 13B, on the paper's own rows, "
    "by its own protocol.": (
        "论文的数字抄自《打造简单版本的 ChatGPT》（2023 年 7 月 14 日），不是在这里测得的："
        "4-bit LLaMA 7B 和 13B，用论文自己的数据和口径。"
    ),
    "† n of the scored rows are also in the model's training data, so the figure may be better "
    "than on rows that the model has not seen.": (
        "† 打分的行里有 n 行也在该模型的训练数据中，因此数字可能好于模型没见过的数据。"
    ),
    "‡ n rows of the set are not scored, because they are longer than evaluation.max_length or the "
    "template cannot write them; in a difference, because that is so for one of the two models.": (
        "‡ 该留出集有 n 行没有打分，因为它们长于 evaluation.max_length，或者模板写不出来；"
        "在差异里，是因为两个模型之一如此。"
    ),
    "The other variants' parts are in the table of template gains.": "其余变体中模板所占的部分见“提升中来自模板的部分”一表。",
    "in its own chat template, untrained, the base has a perplexity of {own}": (
        "未经训练的基座用自己的聊天模板时，困惑度为 {own}"
    ),
    "{model} gains nothing over its base on {heldout} (perplexity {base} before training, {tuned} "
    "after); {untrained}.": (
        "{model} 在 {heldout} 上相对基座没有提升（困惑度训练前 {base}，训练后 {tuned}）；{untrained}。"
    ),
    "perplexity {base} to {tuned}, {total} nats a token": "困惑度从 {base} 到 {tuned}，每个 token {total} nats",
    "{model}'s gain over its base on {heldout} ({change})": "{model} 在 {heldout} 上相对基座的提升（{change}）",
    "None of {gain} is the template: {untrained}.": "{gain}不来自模板：{untrained}。",
    "All of {gain} is the template: {untrained}.": "{gain}全部来自模板：{untrained}。",
    "Of {gain}, {template} nats ({share}) are the template: {untrained}.": (
        "{gain}中，有 {template} nats（{share}）来自模板：{untrained}。"
    ),
    "{comparisons} wholly on rows seen in training (†).": "有 {comparisons}完全基于训练时见过的数据（†）。",
    "{comparisons} partly on rows seen in training (†).": "有 {comparisons}部分基于训练时见过的数据（†）。",
    "{comparisons} on rows seen in training (†), {wholly} of them wholly.": (
        "有 {comparisons}涉及训练时见过的数据（†），其中 {wholly} 项完全如此。"
    ),
    "No variant was compared with its base on its own held-out rows": "没有变体在自己的留出数据上与基座比较过",
    "{better} of {total} variant beats its base on its own held-out rows": (
        "{total} 个变体中有 {better} 个在自己的留出数据上优于基座"
    ),
    "{better} of {total} variants beat their base on their own held-out rows": (
        "{total} 个变体中有 {better} 个在自己的留出数据上优于基座"
    ),
    "on data a variant was not trained on, {better} of {total} {noun} with the base {verb} better": (
        "在变体没有训练过的数据上，与基座的 {total} 项比较中有 {better} 项更好"
    ),
    "{number} worse": "{number} 项更差",
    "{number} undecided": "{number} 项未定",
    "{number} missing": "{number} 项缺失",
    # comparability.py
    "epochs": "epoch 数",
    "optimizer steps": "优化步数",
    "rows per optimizer step": "每步行数",
    "scored tokens": "计损失的 token 数",
    "{name} ({values})": "{name}（{values}）",
    "All variants were trained with the same {same}, but not with the same {unlike}.": (
        "所有变体训练时的{same}相同，但{unlike}不同。"
    ),
    "All variants were trained with the same {same}.": "所有变体训练时的{same}相同。",
    "The variants were not trained with the same {unlike}.": "各变体训练时的{unlike}不同。",
    "{number} left out": "略去 {number} 行",
    "{number} cut": "截短 {number} 行",
    "Training rows longer than training.max_length: {counts}.": "长于 training.max_length 的训练行：{counts}。",
    "Training rows that the template cannot write: {counts}.": "模板写不出来的训练行：{counts}。",
    "Settings that differ between variants: {names}.": "各变体之间不同的设置：{names}。",
    "Where two variants differ in {names} ({mark}), their difference is that of training and "
    "{names} together, on the same replies.": (
        "若两个变体的 {names} 不同（{mark}），它们的差异是训练与 {names} 合在一起的差异，在同样的回复上测量。"
    ),
    "On {sets}, variants were scored on other rows, or their replies have other numbers of tokens: "
    "the perplexities of the tables do not compare between them there; the differences of pairs "
    "do.": (
        "在 {sets} 上，各变体打分的行不同，或回复的 token 数不同：表里的困惑度在它们之间不可比；两两比较的差异可比。"
    ),
    "Intervals were computed with different {names}; those of a base, with the settings of its first "
    "variant.": "区间是用不同的 {names} 计算的；基座的区间用的是它第一个变体的设置。",
    "The bases have different tokenizers ({groups}): compare perplexities only within one of these "
    "groups, and bits per byte between them.": (
        "各基座的分词器不同（{groups}）：困惑度只能在同一组内比较，组与组之间比较每字节比特数。"
    ),
    "Fewer than {few} held-out rows ({counts}): intervals over so few are too narrow; hold out a "
    "larger share (split.heldout) or add rows.": (
        "留出数据少于 {few} 行（{counts}）：行数这么少时区间偏窄；请留出更大的比例（split.heldout）或增加数据。"
    ),
    "{model} on {heldout}": "{model} 在 {heldout} 上",
    "On {heldout}, not all models were scored on the same rows, because some were left out ({mark}): "
    "{counts}.": "在 {heldout} 上，各模型打分的行并不完全相同，因为有些行被略去（{mark}）：{counts}。",
    "{low} to {high}": "{low} 至 {high}",
    # verdict_text.py
    "Figures are means over the seeds of a variant, with intervals by Student's t; those of single "
    "models in other tables have intervals by a bootstrap over rows, so the two differ a little. A "
    "difference is that of two variants on the rows that all were scored on, in per cent of the "
    "perplexity, or in bits per byte where variants count tokens differently; its 95 % interval has the noise of rows and, where a variant was trained "
    "with several seeds, that of seeds. A variant is better or worse where Holm's correction over "
    "all pairs of a set leaves p ≤ 0.05. The last column is the smallest difference that the study "
    "would have found in 80 % of the cases.": (
        "数字是变体各个种子的平均值，区间按学生 t 分布计算；其他表中单个模型的区间来自对数据行的自助法，因此两者略有不同。差异是两个变体在全部模型都打过分的行上的差，以困惑度的百分比表示；"
        "token 计数不同时以每字节比特数表示。95 % 区间包含数据行的波动，若变体训练了多个种子，也包含种子的波动。"
        "对一个留出集的所有两两比较做 Holm 校正后 p ≤ 0.05，才算更好或更差。"
        "最后一列是这项研究在 80 % 的情况下能发现的最小差异。"
    ),
    "The best variant is chosen on one part of the held-out rows and reported on the other part, "
    "so that picking the luckiest is not rewarded.": (
        "最佳变体在一部分留出数据上选出，在另一部分上报告，这样挑中运气最好的那个并不占便宜。"
    ),
    "On {heldout}, {best} is better than {other}: {lower}.": "在 {heldout} 上，{best} 优于 {other}：{lower}。",
    "On {heldout}, {best} is better than every other variant; than the next, {other}: {lower}.": (
        "在 {heldout} 上，{best} 优于其他所有变体；与排在其后的 {other} 相比：{lower}。"
    ),
    "On {heldout}, {best} has the lowest figure, but {names} {verb} not distinguishable from it "
    "({lower}{first}; it is the best with a probability of {probability})": (
        "在 {heldout} 上，{best} 的数字最低，但 {names} 与它无法区分（{lower}{first}；它是最佳的概率为 {probability}）"
    ),
    " for the first": "（对第一个而言）",
    "; the study would have found a difference of {amount}": "；这项研究能发现的差异为 {amount}",
    "{figure} lower by {amount}": "{figure}低 {amount}",
    "{figure} lower by {amount} [{low}, {high}]": "{figure}低 {amount} [{low}, {high}]",
    "; of these, {name} trained fastest ({time}, against {other})": "；其中 {name} 训练最快（{time}，对比 {other}）",
    "Chosen on one part of the held-out rows of {heldout} ({validation}), {chosen} has {figure} "
    "{value} [{low}, {high}] on the other part ({rows}), and is better there than {better} of "
    "{others} others.": (
        "在 {heldout} 留出数据的一部分（{validation} 行）上选出的 {chosen}，在另一部分（{rows} 行）上的{figure}为 "
        "{value} [{low}, {high}]，在那里优于其余 {others} 个中的 {better} 个。"
    ),
    "{sizes} sizes, {least} to {most} rows": "{sizes} 种规模，{least} 至 {most} 行",
    "On {heldout}, {name}: the figures of {sizes}, do not lie on a line, so none is drawn further.": (
        "在 {heldout} 上，{name}：{sizes}的数字不在一条直线上，因此不作外推。"
    ),
    "On {heldout}, {name}: twice the training rows lower {figure} by {value} [{low}, {high}] "
    "({sizes})": "在 {heldout} 上，{name}：训练数据翻倍，{figure}降低 {value} [{low}, {high}]（{sizes}）",
    "; two sizes do not show whether they lie on a line.": "；只有两种规模，看不出是否在一条直线上。",
    "; {rows} rows would give {value} [{low}, {high}].": "；若有 {rows} 行，预计为 {value} [{low}, {high}]。",
    "{missing} of {total} models {verb} missing in all figures: {names}.": (
        "{total} 个模型中有 {missing} 个没有任何数字：{names}。"
    ),
    "Each variant was trained with one seed, so that the noise between seeds is not in these "
    "intervals: another seed may turn a verdict (set seeds in the study).": (
        "每个变体只训练了一个种子，因此区间里不含种子之间的波动：换一个种子，结论可能改变（可在研究里设置 seeds）。"
    ),
    "The noise between seeds is in these intervals.": "区间已包含种子之间的波动。",
    "The noise between seeds is in these intervals; {names} {verb} trained once, so that of the "
    "other variants is taken for theirs.": (
        "区间已包含种子之间的波动；{names} 只训练了一次，种子之间的波动取自其他变体。"
    ),
    # training_tables.py
    "The training time is that of a whole training, with reading the base and the rows and writing "
    "the adapter; tokens per second are of its optimizer steps alone.": (
        "训练时间是整个训练的时间，包括读取基座和数据、写出适配器；每秒 token 数只按优化步的时间计算。"
    ),
    # contaminated_sets.py
    "{sharing} of {texts} ({share}) with those of {models}": (
        "{texts} 行中有 {sharing} 行（{share}）与 {models} 的相同"
    ),
    "Contamination: held-out rows of {heldout} share {words} words in a row with training rows, "
    "{counts}; these models' figures on {heldout} may be of rows learnt by heart.": (
        "污染：{heldout} 的留出行与训练行有连续 {words} 个词相同，{counts}；这些模型在 {heldout} 上的数字可能只是背下了这些行。"
    ),
    "perplexity": "困惑度",
    "bits per byte": "每字节比特数",
    " bits per byte": " 每字节比特数",
    "better": "更好",
    "worse": "更差",
    "undecided": "未定",
    "not distinguishable": "无法区分",
    "higher": "更高",
    "lower": "更低",
    "yes": "是",
    # task_text.py
    "What else changed: replies and tasks": "还有什么变了：回复与任务",
    "Tasks of lm-evaluation-harness show what got better or worse elsewhere; “log” is the "
    "logarithm of a perplexity, in nats. Replies are a model's own to some rows of each held-out "
    "set, always the same ones: ROUGE-L (0 to 1, words) and chrF (0 to 100, characters) say how "
    "alike such a reply and the row's are. A figure is the mean over items and, where a variant "
    "has several, seeds, with its 95 % interval; a difference from the base is paired by item, and "
    "better or worse where Holm's correction over the models leaves p ≤ 0.05.": (
        "lm-evaluation-harness 的任务说明别处变好还是变坏；“log”是困惑度的对数，单位 nats。"
        "“回复”是模型对每个留出集里若干固定行自己写出的回复：ROUGE-L（0 到 1，按词）和 chrF（0 到 100，按字符）"
        "衡量它与该行原有回复有多像。数字是对题目（有多个种子时也对种子）的平均，附 95 % 区间；"
        "与基座的差异按题目配对，对各模型做 Holm 校正后 p ≤ 0.05 才算更好或更差。"
    ),
    "exact match": "完全一致",
    "length in characters": "字符数",
    "ends by itself": "自行结束",
    "{measure} on {task}": "{task} 的 {measure}",
    "{name} is worse than its base in {figures}.": "{name} 在以下方面不如基座：{figures}。",
    "Before comparing two figures": "比较两个数值之前",
    "{further}: {number} more sentences": "{further}：另有 {number} 句",
}
