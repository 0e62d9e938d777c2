"""Headings, tables and charts of the report in Chinese, by the English texts."""

HEADINGS = {
    "chatpipe report": "chatpipe 报告",
    "{study} · chatpipe report": "{study} · chatpipe 报告",
    "Headline": "主要结果",
    "Which figures": "哪些数字",
    "Which variant is better": "哪个变体更好",
    "The best variants on each data set": "每个数据集上最好的几个变体",
    "Variants on each data set, the best one first": "每个数据集上的变体，从好到差",
    "Cost and quality on {heldout}": "{heldout} 上的成本与质量",
    "Cost and quality on {heldout}. The line is the Pareto front: no other variant has as low a figure "
    "and costs as little, where seconds within 5 % count as the same. A number is a place in the ranking.": (
        "{heldout} 上的成本与质量。连线是帕累托前沿：没有别的变体数字同样低而成本也同样低（秒数相差 5 % 以内视为相同）。数字是排名中的名次。"
    ),
    "Pairs of variants [95 % interval]; below zero, the first is better": (
        "变体两两比较 [95 % 区间]；小于零表示前者更好"
    ),
    "Missing": "缺失",
    "Models without figures": "没有数字的模型",
    "Each variant on its own data": "每个变体在自己的数据上",
    "Perplexity [95 % interval] on rows held out from the variant's own data sets": (
        "困惑度 [95 % 区间]，在从变体自己的数据集中留出的行上"
    ),
    "Transfer: every model on every held-out set": "迁移：每个模型在每个留出集上",
    "lower than its base (better)": "低于基座（更好）",
    "higher (worse)": "高于基座（更差）",
    "the colour is strongest at a quarter and at four times the base's perplexity": (
        "困惑度为基座的四分之一或四倍时颜色最深"
    ),
    "framed: held-out rows of data it was trained on": "加框：模型训练过的数据集的留出行",
    "Heatmap of perplexity": "困惑度热图",
    "Perplexity [95 % interval]": "困惑度 [95 % 区间]",
    "Perplexity minus the base's, same rows [paired 95 % interval]; below zero is better": (
        "困惑度减去基座的困惑度，同样的行 [配对 95 % 区间]；小于零为更好"
    ),
    "Difference from the base": "与基座的差异",
    "The template's part of the gain": "提升中来自模板的部分",
    "Perplexities, and the gain over the base in bits per byte of the replies, same rows [paired 95 % "
    "interval]; above zero is better": (
        "困惑度，以及相对基座的提升（回复的每字节比特数），同样的行 [配对 95 % 区间]；大于零为更好"
    ),
    "Bits per byte: models with different tokenizers": "每字节比特数：分词器不同的模型",
    "Bits per byte of the replies [95 % interval]": "回复的每字节比特数 [95 % 区间]",
    "Bits per byte minus the base's": "每字节比特数减去基座的",
    "Bits per byte minus the base's, same rows [paired 95 % interval]; below zero is better": (
        "每字节比特数减去基座的，同样的行 [配对 95 % 区间]；小于零为更好"
    ),
    "Figures of every model [95 % interval], and minus the base's, same rows [paired 95 % interval]": (
        "每个模型的数字 [95 % 区间]，以及减去基座的，同样的行 [配对 95 % 区间]"
    ),
    "Learning curves": "学习曲线",
    "The figure of each variant over the rows that it was trained on, which double from one mark to "
    "the next, with its 95 % interval; the fitted line, where three or more sizes lie on one; dashed, "
    "what it gives at twice the most rows.": (
        "每个变体的数字随训练行数的变化，相邻刻度行数翻倍，附 95 % 区间；三种以上规模在一条直线上时画出拟合线；"
        "虚线是行数再翻倍时的预计。"
    ),
    "Training": "训练",
    "Training loss, on the training rows: it shows whether training went well, not how good a model "
    "is. In a long history, each point is the mean of consecutive steps.": (
        "训练损失，在训练数据上：它说明训练是否顺利，并不说明模型有多好。记录很长时，每个点是相邻若干步的平均。"
    ),
    "Loss curves": "损失曲线",
    "One chart for each variant, with all its seeds; all have the same axes, in nats per scored token.": (
        "每个变体一张图，包含它的所有种子；坐标轴相同，单位是每个计损失 token 的 nats。"
    ),
    "Cost of training": "训练成本",
    "The panel: one prompt, every model": "提示词面板：同一个提示词，每个模型",
    "Answers are shown as generated. They are for reading; no score uses them.": (
        "回答按生成的原样显示，供人阅读；任何分数都不使用它们。"
    ),
    "After:": "之前的对话：",
    "Input: ": "输入：",
    "{cpu}, {threads} threads": "{cpu}，{threads} 个线程",
    "asked {form}": "提问方式：{form}",
    "Asked {form}.": "提问方式：{form}。",
    "as bare text": "不加模板的原文",
    "in the training template": "训练模板",
    "in the training template, and {names} in the base's own chat template": (
        "训练模板，{names} 用基座自己的聊天模板"
    ),
    "{template}; a prompt of {dataset}'s held-out rows": "{template}；取自 {dataset} 的留出数据",
    "(empty)": "（空）",
    "{tokens}, cut at the limit": "{tokens}，到上限被截断",
    "system: {text}": "系统：{text}",
    "user: {text}": "用户：{text}",
    "assistant: {text}": "助手：{text}",
    "Generation settings that differ between models": "各模型之间不同的生成设置",
    "How all answers were generated": "所有回答的生成方式",
    "How the answers were generated": "回答的生成方式",
    "Generation settings": "生成设置",
    "Generation settings that all models share": "所有模型相同的生成设置",
    "Every cell, and where its figures come from": "每个单元，以及数字的来源",
    "Each figure links to the manifest of the artifact that it was computed from, in chatpipe's "
    "directory: the links work where this page lies in reports/.": (
        "每个数字都链接到 chatpipe 目录中计算它的产物的清单：本页位于 reports/ 下时链接有效。"
    ),
    "Settings that vary": "取不同值的设置",
    "Figures of {name}": "{name} 的数字",
    "Data": "数据",
    "Held-out sets": "留出集",
    "Row accounts: read = kept + dropped": "行数账目：读入 = 保留 + 丢弃",
    "Row accounts": "行数账目",
    "Settings": "设置",
    "Settings in which the variants differ": "各变体之间不同的设置",
    "Settings that differ": "不同的设置",
    "No setting differs between the variants.": "各变体的设置没有差别。",
    "{settings} that all variants share": "所有变体相同的 {settings}",
    "Shared settings": "相同的设置",
    "The paper's own figures": "论文自己的数字",
    "The paper's figures": "论文的数字",
    "As the paper reports them": "论文报告的数字",
    "† Rows seen in training": "† 训练时见过的行",
    "‡ Rows left out": "‡ 略去的行",
    "rows seen in training": "训练时见过的行",
    "rows left out": "略去的行",
    "Versions and device": "版本与设备",
    "Devices on which each model was trained, scored and answered": "每个模型训练、打分和回答所用的设备",
    "Library versions that differ between the variants' trainings": "各变体训练时不同的库版本",
    "Library versions": "库版本",
    "Library versions that all trainings share": "所有训练相同的库版本",
    "Versions that differ": "不同的版本",
    "Versions": "版本",
    "Devices": "设备",
    "Generation that differs": "不同的生成设置",
    "Generation": "生成",
    "{caption}: {rows}": "{caption}：{rows}",
    # Headers of tables.
    "Model": "模型",
    "Base": "基座",
    "Trained on": "训练数据",
    "Own held-out perplexity": "自己留出数据上的困惑度",
    "Base on the same rows": "基座在同样的行上",
    "Difference from base": "与基座的差异",
    "Bits per byte": "每字节比特数",
    "By the paper's protocol": "按论文口径",
    "Paper reported": "论文报告",
    "Training time": "训练时间",
    "Base in its own chat template": "基座用自己的聊天模板",
    "Template's share of the gain": "模板占提升的比例",
    "Template": "模板",
    "Held-out set": "留出集",
    "Base in that template": "基座用该模板",
    "Base in its own": "基座用自己的模板",
    "Variant": "变体",
    "Gain": "提升",
    "Of it the template": "其中来自模板",
    "Of it the training": "其中来自训练",
    "Template's share": "模板所占比例",
    "Rows": "行数",
    "Rows left out": "略去的行",
    "Rows cut": "截短的行",
    "Epochs": "epoch 数",
    "Tokens": "token 数",
    "Steps": "步数",
    "Trainable parameters": "可训练参数",
    "Tokens per second": "每秒 token 数",
    "Peak memory": "内存峰值",
    "Device": "设备",
    "Turns": "轮次",
    "Held-out rows of": "留出行来自",
    "Setting": "设置",
    "Value": "值",
    "Library": "库",
    "Asked on": "提问所在设备",
    "Perplexity": "困惑度",
    "Perplexity or bits per byte": "困惑度或每字节比特数",
    "Step": "步骤",
    "Read": "读入",
    "Kept": "保留",
    "Dropped": "丢弃",
    "Kept but flagged": "保留但有标记",
    "Figure": "数字",
    "Probability of being best": "最佳的概率",
    "Pareto front": "帕累托前沿",
    "Seeds": "种子数",
    "Compared with": "与之比较",
    "Difference": "差异",
    "Verdict": "结论",
    "Would have been found": "可发现的差异",
    "Reason": "原因",
    "On": "数据",
    "Measure": "指标",
    "Minus the base's": "减去基座的",
    "Answer": "回答",
    "Length": "长度",
    "Manifest": "清单",
    "Answers": "回答",
    "Training rows": "训练行数",
    "Perplexity on {heldout}": "{heldout} 上的困惑度",
    # Notes under tables.
    "{model} on {heldout}: {left_out} of {rows} rows left out": (
        "{model} 在 {heldout} 上：{rows} 行中略去 {left_out} 行"
    ),
    "{model} on {heldout}: {seen} of {rows} rows are also in its training data": (
        "{model} 在 {heldout} 上：{rows} 行中有 {seen} 行也在它的训练数据里"
    ),
    "{kept} of {read}, {replies}": "{read} 轮中保留 {kept} 轮，{replies}",
    "{name} ({method})": "{name}（{method}）",
    "normalize": "规范化",
    "merge": "合并",
    # Charts.
    "Perplexity of every model on every held-out set": "每个模型在每个留出集上的困惑度",
    "Training loss of every variant over epochs": "每个变体的训练损失随 epoch 的变化",
    "loss, nats per scored token": "损失，每个计损失 token 的 nats",
    "base": "基座",
    "{ratio} × base": "基座的 {ratio} 倍",
    "{name} from {first} to {last}": "{name} 从 {first} 到 {last}",
    "from {first} to {last}": "从 {first} 到 {last}",
    "minutes of a training": "一次训练的分钟数",
    "thousand tokens of a training": "一次训练的 token 数（千）",
    "{name}: {figure} at {cost}": "{name}：成本 {cost} 时为 {figure}",
    "{rows} rows: {figure}": "{rows} 行：{figure}",
    "{epochs} epochs": "{epochs} 个 epoch",
    "{model} on {heldout}: {figure}": "{model} 在 {heldout} 上：{figure}",
    # Times.
    "{seconds} s": "{seconds} 秒",
    "{minutes} min {seconds} s": "{minutes} 分 {seconds} 秒",
    "{hours} h {minutes} min": "{hours} 小时 {minutes} 分",
    "{minutes} min": "{minutes} 分",
    "{days} days": "{days} 天",
    # Notes of a run.
    "As the run recorded it: {note}": "运行时的原始记录：{note}",
    "data set {name}: format auto is {format}, by its columns.": (
        "数据集 {name}：格式 auto 按列名识别为 {format}。"
    ),
    "contamination: {counts} share {words} words in a row with the training rows of {names}; they "
    "are scored like the others.": (
        "污染检查：{counts} 与 {names} 的训练行有连续 {words} 个词相同；它们照常打分。"
    ),
    "{sharing} of {rows} held-out rows of {name}": "{name} 的 {rows} 行留出数据中有 {sharing} 行",
    "{sharing} of {rows} prompts of the panel": "面板的 {rows} 个提示词中有 {sharing} 个",
    "{pair}: not compared, because {reason}.": "{pair}：未作比较，原因：{reason}。",
    "{base} is not measured in its own chat template: {reason}": (
        "{base} 没有用自己的聊天模板测量：{reason}"
    ),
    "This report is without {left} of {total} variants, which the same command trains next.": (
        "{total} 个变体中有 {left} 个尚未训练，不在本报告里；再次运行同一条命令会继续训练。"
    ),
    # Ratings.
    "Two answers to one prompt were shown without the names of their models, in an order drawn by "
    "chance. The win rate is the share of wins and half the ties; two bad answers count as a tie. "
    "Strength is Bradley and Terry's, in log odds, with a mean of zero over the models: a model "
    "that is stronger by 1 is preferred in 73 % of comparisons. Intervals are 95 %, over prompts.": (
        "同一个提示词的两个回答不带模型名并排显示，顺序随机。胜率是胜的比例加上平局的一半；两个都不好算平局。"
        "强度是 Bradley–Terry 模型的对数几率，所有模型的平均为零：强 1 的模型在 73 % 的比较中胜出。"
        "区间为 95 %，对提示词计算。"
    ),
    "Ratings by people": "人工评分",
    "{title}, seeds of a variant pooled": "{title}（合并同一变体的各个种子）",
    "Models that differ by the seed of training alone are one variant here; ratings of two of them "
    "are left out. The intervals are over prompts, and do not have how far other seeds would "
    "differ.": (
        "只在训练种子上不同的模型在这里算作一个变体；其中两个模型之间的评分不计入。"
        "区间是对提示词而言的，不包括换用其他种子会带来的差异。"
    ),
    "Without an interval, as rated on one prompt only: {names}.": "没有区间，因为只在一个提示词上被评分：{names}。",
    "Without an interval of the strength, as every prompt has the same win rate: {names}.": (
        "强度没有区间，因为每个提示词上的胜率都相同：{names}。"
    ),
    "Ratings by a model": "模型评分",
    "Ratings by the model {judge}": "模型 {judge} 的评分",
    "Ratings in none of these figures: {counts}.": "没有计入这些数字的评分：{counts}。",
    "{ratings} of {pairs} on {prompts} by {raters}: {names}.": (
        "{raters}在 {prompts}上对 {pairs}作出 {ratings}：{names}。"
    ),
    "rating": "次评分",
    "pair": "对回答",
    "prompt": "个提示词",
    "rater": "位评分者",
    "unit": "个单位",
    "verdicts": "结论",
    "correctness": "正确性",
    "Agreement of raters on {name}: Krippendorff's alpha {alpha} (1: all agree, 0: as by chance; "
    "{units} that two or more rated).": (
        "评分者在{name}上的一致性：Krippendorff alpha 为 {alpha}（1：完全一致，0：与随机相同；两人以上评过的有 {units}）。"
    ),
    "Agreement of raters is not known: all verdicts are the same.": "评分者的一致性未知：所有结论都相同。",
    "Agreement of raters is not known: no pair was rated by two people.": (
        "评分者的一致性未知：没有一对回答由两个人评过。"
    ),
    "The model {name} gave a verdict on {pairs} in both orders; it changed with the order in "
    "{flipped} ({share}), which count as ties.": (
        "模型 {name} 按两种顺序判断了 {pairs}；其中 {flipped} 对（{share}）的结论随顺序改变，按平局计。"
    ),
    "The model {name} gave no verdict on {pairs}: {counts}.": (
        "模型 {name} 对 {pairs}没有给出结论：{counts}。"
    ),
    "The model {name} and most people agree on {agreed} of {pairs} ({share}); Cohen's kappa is "
    "{kappa}.": "模型 {name} 与多数人在 {pairs}中的 {agreed} 对上一致（{share}）；Cohen kappa 为 {kappa}。",
    "not defined": "无定义",
    "The model {name} and people rated no pair both, so their agreement is not known.": (
        "模型 {name} 与人没有评过同一对回答，因此一致性未知。"
    ),
    "With {prompts}, these intervals say little of other prompts.": "只有 {prompts}，这些区间对其他提示词说明不了什么。",
    "Of {answers} that were better, {first} were shown first ({share}; without a bias, 50 %).": (
        "在较好的 {answers}中，{first} 个显示在前面（{share}；没有偏差时为 50 %）。"
    ),
    "Ratings": "评分数",
    "Wins": "胜",
    "Losses": "负",
    "Ties": "平",
    "Both bad": "都不好",
    "Win rate": "胜率",
    "Strength": "强度",
    "Correctness (1–5)": "正确性（1–5）",
}
